// Command gitops tells what a GitOps tool's own health check makes of a Kubernetes object: it runs the very rule that
// users install, in the engine that the tool uses.
//
//	gitops argocd argocd-cm.yaml <object.json
//	gitops flux kustomization.yaml <object.json
//
// Each prints "Status<TAB>message". Argo CD runs Lua (gopher-lua) with few libraries and for at most a second; Flux
// evaluates CEL (cel-go) that is parsed and not type-checked. What comes before and after the rule is done here as the
// tools do it: an object that is being deleted, a generation that was not observed, the order of Flux's expressions.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const usage = `usage: gitops argocd CONFIGMAP.yaml <object.json
       gitops flux KUSTOMIZATION.yaml <object.json`

func main() {
	if len(os.Args) != 3 {
		fail(2, usage)
	}
	object, err := read(os.Stdin)
	if err != nil {
		fail(2, "gitops: not a Kubernetes object in JSON: %v", err)
	}
	check := map[string]func(*unstructured.Unstructured, *unstructured.Unstructured) (string, string, error){
		"argocd": argocd, "flux": flux,
	}[os.Args[1]]
	if check == nil {
		fail(2, usage)
	}
	rules, err := firstDocument(os.Args[2])
	if err != nil {
		fail(2, "gitops: %s: %v", os.Args[2], err)
	}
	status, message, err := check(rules, object)
	if err != nil {
		fail(1, "gitops: %v", err)
	}
	fmt.Printf("%s\t%s\n", status, message)
}

func fail(code int, format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(code)
}

// Whole numbers stay whole, as they are in the tools.
func read(r io.Reader) (*unstructured.Unstructured, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	object := &unstructured.Unstructured{}
	return object, object.UnmarshalJSON(text)
}

func firstDocument(file string) (*unstructured.Unstructured, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	document := &unstructured.Unstructured{}
	return document, yaml.NewYAMLOrJSONDecoder(f, 4096).Decode(&document.Object)
}

// --- Argo CD ---------------------------------------------------------------------------------------------------------

// What Lua may return.
var healthCodes = map[string]bool{
	"Healthy": true, "Progressing": true, "Degraded": true, "Suspended": true, "Missing": true, "Unknown": true,
}

func argocd(rules, object *unstructured.Unstructured) (string, string, error) {
	// Before any rule is asked.
	if object.GetDeletionTimestamp() != nil {
		return "Progressing", "Pending deletion", nil
	}
	kind := object.GroupVersionKind()
	key := fmt.Sprintf("resource.customizations.health.%s_%s", kind.Group, kind.Kind)
	script, found, err := unstructured.NestedString(rules.Object, "data", key)
	if err != nil || !found {
		return "", "", fmt.Errorf("no entry %s (%v)", key, err)
	}
	return runLua(script, object)
}

func runLua(script string, object *unstructured.Unstructured) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	// No string, no math, no io: a rule that wants them works only for who sets useOpenLibs.
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		call := lua.P{Fn: state.NewFunction(open), NRet: 0, Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return "", "", err
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limit)
	state.SetGlobal("obj", luaValue(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	result, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script returned %s and not a table", state.Get(-1).Type())
	}
	status, message := result.RawGetString("status"), result.RawGetString("message")
	if status.Type() != lua.LTString || !healthCodes[status.String()] {
		return "", "", fmt.Errorf("the script returned the status %s", status)
	}
	if message == lua.LNil {
		message = lua.LString("")
	}
	if message.Type() != lua.LTString {
		return "", "", fmt.Errorf("the script returned a message that is a %s", message.Type())
	}
	return status.String(), message.String(), nil
}

func luaValue(state *lua.LState, value any) lua.LValue {
	switch v := value.(type) {
	case bool:
		return lua.LBool(v)
	case string:
		return lua.LString(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	case []any:
		table := state.CreateTable(len(v), 0)
		for _, item := range v {
			table.Append(luaValue(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(v))
		for name, item := range v {
			table.RawSetString(name, luaValue(state, item))
		}
		return table
	}
	return lua.LNil
}

// --- Flux ------------------------------------------------------------------------------------------------------------

type healthCheck struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	InProgress string `json:"inProgress"`
	Failed     string `json:"failed"`
	Current    string `json:"current"`
}

func flux(rules, object *unstructured.Unstructured) (string, string, error) {
	list, _, err := unstructured.NestedSlice(rules.Object, "spec", "healthCheckExprs")
	if err != nil {
		return "", "", err
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", "", err
	}
	var checks []healthCheck
	if err := json.Unmarshal(text, &checks); err != nil {
		return "", "", err
	}
	var found *healthCheck
	group := object.GroupVersionKind().GroupKind()
	for i, check := range checks {
		if schema.FromAPIVersionAndKind(check.APIVersion, check.Kind).GroupKind() != group {
			continue
		}
		if found != nil {
			return "", "", fmt.Errorf("two checks for %s", group)
		}
		found = &checks[i]
	}
	if found == nil {
		return "", "", fmt.Errorf("no check for %s", group)
	}
	if found.Current == "" {
		return "", "", errors.New("a check must have 'current'")
	}
	observed, ok, err := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	if err != nil {
		return "", "", err
	}
	if ok && observed != object.GetGeneration() {
		return "InProgress", "the generation was not observed", nil
	}
	for _, step := range []struct{ status, expression string }{
		{"InProgress", found.InProgress}, {"Failed", found.Failed}, {"Current", found.Current},
	} {
		if step.expression == "" {
			continue
		}
		holds, err := evaluate(step.expression, object.Object)
		if err != nil {
			// The tool goes on waiting, and says this when it gives up.
			return "Unknown", err.Error(), nil
		}
		if holds {
			return step.status, "", nil
		}
	}
	return "InProgress", "no expression holds", nil
}

func evaluate(expression string, object map[string]any) (bool, error) {
	environment, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		ext.Strings(),
		ext.Sets(),
		ext.Encoders(),
	)
	if err != nil {
		return false, err
	}
	parsed, issues := environment.Parse(expression)
	if issues != nil {
		return false, issues.Err()
	}
	program, err := environment.Program(parsed, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return false, err
	}
	value, _, err := program.Eval(object)
	if err != nil {
		return false, err
	}
	holds, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("%s is not true or false", expression)
	}
	return bool(holds), nil
}
