{{/* The application name for labels, without the release name. */}}
{{- define "valet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of the chart's objects, from the release name. It has at most 52 bytes, so that suffixes fit. A Service name must
     begin with a letter and cannot contain dots, but a release name can begin with a digit and contain dots. */}}
{{- define "valet.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) .Values.fullnameOverride }}
{{- $full = replace "." "-" $full }}
{{- if regexMatch "^[0-9]" $full }}
{{- $full = printf "valet-%s" $full }}
{{- end }}
{{- $full | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select the pods of this release. They must not change, because the selector of a Deployment is immutable. */}}
{{- define "valet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "valet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The ending of the names of one shard's objects. It is empty if there is only one shard. Argument: a list of the root context and the
     number of the shard. */}}
{{- define "valet.shardSuffix" -}}
{{- if gt (int (first .).Values.shards) 1 }}-shard-{{ last . }}{{ end }}
{{- end }}

{{/* Labels that select the pods of one shard. Argument: a list of the root context and the number of the shard. */}}
{{- define "valet.shardSelectorLabels" -}}
{{- include "valet.selectorLabels" (first .) }}
{{- if gt (int (first .).Values.shards) 1 }}
valetkey.dev/shard: {{ last . | quote }}
{{- end }}
{{- end }}

{{/* Labels of every object. Labels from the values cannot replace the selector labels of the chart. */}}
{{- define "valet.labels" -}}
{{- include "valet.labelsAnd" (list . dict) }}
{{- end }}

{{/* The labels of valet.labels with additional labels for one object. Argument: a list of the root context and a map of labels. */}}
{{- define "valet.labelsAnd" -}}
{{- $root := first . }}
{{- $own := include "valet.selectorLabels" $root | fromYaml }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- $_ = set $own "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ = set $own "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- merge $own (last . | default dict) ($root.Values.commonLabels | default dict) | toYaml }}
{{- end }}

{{- define "valet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "valet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The user name of the operator's service account. */}}
{{- define "valet.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "valet.serviceAccountName" . }}
{{- end }}

{{/* A list of strings as a CEL list literal. */}}
{{- define "valet.celList" -}}
[{{ range $i, $word := . }}{{ if $i }}, {{ end }}'{{ $word }}'{{ end }}]
{{- end }}

{{/* CEL expression: whether the operator may set the label or annotation k on a Secret. Allowed are names without a domain, Valet's
     own names, and the domains of allowSecretMetadata. */}}
{{- define "valet.metadataAllowed" -}}
(!k.contains('/') || k == 'app.kubernetes.io/managed-by' || k.split('/')[0] in {{ include "valet.celList" (concat (list "valetkey.dev") .Values.allowSecretMetadata | uniq) }})
{{- end }}

{{/* CEL variables for the metadata of a Secret before and after the request. A missing field becomes an empty map or list. */}}
{{- define "valet.metadataVariables" -}}
{{- range $which, $what := dict "old" "oldObject" "" "object" }}
{{- range $variable, $field := dict "labels" "labels" "annotations" "annotations" "references" "ownerReferences" "finalizers" "finalizers" }}
- name: {{ $which | empty | ternary $variable (printf "%s%s" $which (title $variable)) }}
  expression: "{{ $what }} != null && has({{ $what }}.metadata.{{ $field }}) ? {{ $what }}.metadata.{{ $field }} : {{ has $field (list "labels" "annotations") | ternary "{}" "[]" }}"
{{- end }}
{{- end }}
{{- end }}

{{- define "valet.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- if .Values.image.digest }}{{ $image }}@{{ .Values.image.digest }}{{ else }}{{ $image }}{{ end }}
{{- end }}

{{/* The operator's service account, as the subjects of a role binding. */}}
{{- define "valet.subjects" -}}
- kind: ServiceAccount
  name: {{ include "valet.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* Labels and annotations of the CustomResourceDefinitions. */}}
{{- define "valet.crdMetadata" -}}
labels:
  {{- include "valet.labels" . | nindent 2 }}
{{- if or .Values.crds.keep .Values.crds.annotations }}
annotations:
  {{- if .Values.crds.keep }}
  helm.sh/resource-policy: keep
  {{- end }}
  {{- with .Values.crds.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The peers of an egress rule. An empty list stands for any address except link-local addresses. */}}
{{- define "valet.egressPeers" -}}
{{- if . }}
{{- toYaml . }}
{{- else -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [169.254.0.0/16]
- ipBlock:
    cidr: ::/0
    except: ["fe80::/10", "fd00:ec2::/32"]
{{- end }}
{{- end }}

{{/* Rejects combinations of values that the schema cannot reject. */}}
{{- define "valet.validate" -}}
{{- if and .Values.scopedNamespace .Values.rbac.secretsNamespaces }}
{{- fail "scopedNamespace and rbac.secretsNamespaces cannot both be set: scopedNamespace already restricts the access to Secrets to one namespace; unset rbac.secretsNamespaces" }}
{{- end }}
{{- if and .Values.watchSecrets .Values.rbac.secretsNamespaces }}
{{- fail "watchSecrets needs the permission to list the Secrets of all namespaces, but rbac.secretsNamespaces restricts this permission: unset one of them" }}
{{- end }}
{{- if and .Values.rbac.credentialsSecrets (not (or .Values.scopedNamespace .Values.rbac.secretsNamespaces)) }}
{{- fail "rbac.credentialsSecrets alone has no effect, because the operator may read the Secrets of all namespaces: also set scopedNamespace or rbac.secretsNamespaces" }}
{{- end }}
{{- if and .Values.rbac.credentialsSecrets (or (eq .Values.scopedNamespace .Release.Namespace) (has .Release.Namespace .Values.rbac.secretsNamespaces)) }}
{{- fail (printf "rbac.credentialsSecrets has no effect, because the operator serves the release's namespace %s and may read all Secrets there: unset rbac.credentialsSecrets" .Release.Namespace) }}
{{- end }}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.egress.stores.to (not .Values.networkPolicy.egress.apiServer.to) }}
{{- fail "networkPolicy.egress.stores.to does not limit the addresses of stores while networkPolicy.egress.apiServer.to is empty, because the rule for the apiserver then allows any address: set networkPolicy.egress.apiServer.to to the addresses that kubectl get endpointslices --namespace default prints for kubernetes" }}
{{- end }}
{{- if and .Values.notifications.enabled (not .Values.notifications.existingSecret) }}
{{- fail "notifications.enabled needs notifications.existingSecret, a Secret with the tokens that stores must send: docs/notifications.md" }}
{{- end }}
{{- if and (gt (int .Values.shards) 1) .Values.notifications.enabled (not .Values.leaderElect) }}
{{- fail "shards above 1 and notifications.enabled need leaderElect, because a shard finds the leaders of the other shards in their Leases: set leaderElect to true" }}
{{- end }}
{{- if ne (empty .Values.notifications.google.accounts) (empty .Values.notifications.google.audience) }}
{{- fail "notifications.google.accounts and notifications.google.audience must be set together: docs/notifications.md" }}
{{- end }}
{{- if and .Values.notifications.google.accounts (not .Values.notifications.enabled) }}
{{- fail "notifications.google.accounts has no effect without notifications.enabled: set notifications.enabled to true" }}
{{- end }}
{{- $flags := dict
  "operator-namespace" "helm's --namespace" "http-address" "listenAddress" "log-level" "log.level" "log-format" "log.format"
  "concurrency" "concurrency" "resync-seconds" "resyncSeconds" "ttl-seconds-after-finished" "ttlSecondsAfterFinished"
  "namespace" "scopedNamespace" "leader-elect" "leaderElect" "shards" "shards" "shard" "shards" "watch-secrets" "watchSecrets"
  "share-credentials-with-namespaces" "shareCredentialsWithNamespaces" "allow-private-endpoints" "allowPrivateEndpoints"
  "deny-endpoints" "denyEndpoints" "allow-secret-metadata" "allowSecretMetadata"
  "allow-secret-metadata" "allowSecretMetadata"
  "tenant-store-requests" "tenantStoreRequests"
  "notifications-address" "notifications.enabled" "notifications-token-file" "notifications.existingSecret"
  "notifications-sns-topics" "notifications.snsTopics" "notifications-google-accounts" "notifications.google.accounts"
  "notifications-google-audience" "notifications.google.audience" }}
{{- range $arg := .Values.extraArgs }}
{{- with get $flags (splitList "=" $arg | first | trimPrefix "--") }}
{{- fail (printf "extraArgs contains %s: set %s instead, which also configures other objects of the chart" $arg .) }}
{{- end }}
{{- end }}
{{- if and .Values.notifications.enabled (eq (int .Values.notifications.port) (int .Values.service.port)) }}
{{- fail "notifications.port and service.port are ports of the same Service and must be different" }}
{{- end }}
{{- if .Values.leaderElect }}
{{- range (lookup "apps/v1" "Deployment" .Release.Namespace "").items }}
{{- $labels := default dict .metadata.labels }}
{{- $instance := get $labels "app.kubernetes.io/instance" }}
{{- if and (hasPrefix "valet-" (get $labels "helm.sh/chart")) $instance (ne $instance $.Release.Name) }}
{{- fail (printf "release %s of this chart is already in namespace %s: both releases would use the same Lease, and one of them would never become the leader; choose another namespace" $instance $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
