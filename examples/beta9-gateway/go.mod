module clipwright/examples/beta9-gateway

go 1.26

require clipwright/clients/go v0.0.0

replace clipwright/clients/go => ../../clients/go
