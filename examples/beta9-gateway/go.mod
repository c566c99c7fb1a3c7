module clipwright/examples/beta9-gateway

go 1.26.0

require clipwright/clients/go v0.0.0

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/oapi-codegen/runtime v1.9.0 // indirect
)

replace clipwright/clients/go => ../../clients/go
