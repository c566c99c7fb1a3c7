module clipwright/examples/beta9-worker

go 1.22
