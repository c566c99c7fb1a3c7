// What Compose and Kustomize make of their files, for tests: `manifests compose FILE` prints the project as
// JSON, `manifests kustomize DIRECTORY` the resources as YAML.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manifests compose FILE | kustomize DIRECTORY")
		os.Exit(2)
	}
	out, err := shown(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(out); err != nil {
		os.Exit(1)
	}
}

func shown(what, path string) ([]byte, error) {
	switch what {
	case "compose":
		options, err := cli.NewProjectOptions([]string{path}, cli.WithOsEnv, cli.WithName("clipwright"))
		if err != nil {
			return nil, err
		}
		project, err := options.LoadProject(context.Background())
		if err != nil {
			return nil, err
		}
		return project.MarshalJSON()
	case "kustomize":
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), path)
		if err != nil {
			return nil, err
		}
		return resources.AsYaml()
	default:
		return nil, fmt.Errorf("%s: expected compose or kustomize", what)
	}
}
