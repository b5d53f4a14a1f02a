//go:build tools

// Package tools pins the programs that the harness builds (see ../../../hack/tools.sh).
package tools

import (
	_ "github.com/google/cel-go/cel"
	_ "github.com/yuin/gopher-lua"
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)
