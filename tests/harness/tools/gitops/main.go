// Command gitops tells what a GitOps tool's own health check makes of a Kubernetes object: it runs the rule in the
// engine that the tool uses (Argo CD: Lua, with gopher-lua; Flux: CEL, with cel-go).
//
//	gitops argocd SCRIPT.lua <object.json            prints "Status<TAB>message"
//	gitops flux EXPRESSION [NAME=EXPRESSION...]      see the usage
package main

import (
	"fmt"
	"os"

	_ "github.com/google/cel-go/cel"
	_ "github.com/yuin/gopher-lua"
)

func main() {
	fmt.Fprintln(os.Stderr, "gitops: nothing yet")
	os.Exit(2)
}
