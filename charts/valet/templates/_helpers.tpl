{{/* The name of what is installed, without the release's. */}}
{{- define "valet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What objects are called: the release's name, which usually is "valet" itself. At most 52 bytes, which leaves room for endings; and
     a Service's name has no dots and begins with a letter, while a release's may be otherwise. */}}
{{- define "valet.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) .Values.fullnameOverride }}
{{- $full = replace "." "-" $full }}
{{- if regexMatch "^[0-9]" $full }}
{{- $full = printf "valet-%s" $full }}
{{- end }}
{{- $full | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* What tells this release's pods from others. Never changes, since a Deployment's selector cannot. */}}
{{- define "valet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "valet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. Nobody's take the place of those by which the chart finds its objects. */}}
{{- define "valet.labels" -}}
{{- include "valet.labelsAnd" (list . dict) }}
{{- end }}

{{/* The same with more for one object: the root, and a map. */}}
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

{{/* The name behind the account's token. */}}
{{- define "valet.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "valet.serviceAccountName" . }}
{{- end }}

{{/* A list of words as a list in CEL. */}}
{{- define "valet.celList" -}}
[{{ range $i, $word := . }}{{ if $i }}, {{ end }}'{{ $word }}'{{ end }}]
{{- end }}

{{/* Whether the operator may set the label or annotation k on a Secret, in CEL: a name without a domain, its own, or one that is allowed. */}}
{{- define "valet.metadataAllowed" -}}
(!k.contains('/') || k == 'app.kubernetes.io/managed-by' || k.split('/')[0] in {{ include "valet.celList" (concat (list "valetkey.dev") .Values.allowSecretMetadata | uniq) }})
{{- end }}

{{/* Variables of a policy about Secrets: what the object has, and what it had, with nothing where there is none. */}}
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

{{/* The subject of every binding. */}}
{{- define "valet.subjects" -}}
- kind: ServiceAccount
  name: {{ include "valet.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* Labels and annotations of a CustomResourceDefinition. */}}
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

{{/* Values that are right each by itself and wrong together. */}}
{{- define "valet.validate" -}}
{{- if and .Values.scopedNamespace .Values.rbac.secretsNamespaces }}
{{- fail "scopedNamespace and rbac.secretsNamespaces cannot both be set: with scopedNamespace the operator touches no Secrets of other namespaces anyway" }}
{{- end }}
{{- if and .Values.watchSecrets .Values.rbac.secretsNamespaces }}
{{- fail "watchSecrets needs the right to list the Secrets of all namespaces, which rbac.secretsNamespaces withholds: unset one of them" }}
{{- end }}
{{- if and .Values.rbac.credentialsSecrets (not (or .Values.scopedNamespace .Values.rbac.secretsNamespaces)) }}
{{- fail "rbac.credentialsSecrets alone narrows nothing, since the operator may read the Secrets of all namespaces: set scopedNamespace or rbac.secretsNamespaces, too" }}
{{- end }}
{{- if and .Values.rbac.credentialsSecrets (or (eq .Values.scopedNamespace .Release.Namespace) (has .Release.Namespace .Values.rbac.secretsNamespaces)) }}
{{- fail (printf "rbac.credentialsSecrets narrows nothing, since the operator serves the release's own namespace %s, too, and may read all Secrets there" .Release.Namespace) }}
{{- end }}
{{- if and .Values.notifications.enabled (not .Values.notifications.existingSecret) }}
{{- fail "notifications.enabled needs notifications.existingSecret, a Secret with the tokens that stores must present: docs/notifications.md" }}
{{- end }}
{{- if ne (empty .Values.notifications.google.accounts) (empty .Values.notifications.google.audience) }}
{{- fail "notifications.google.accounts and notifications.google.audience need each other: docs/notifications.md" }}
{{- end }}
{{- if and .Values.notifications.google.accounts (not .Values.notifications.enabled) }}
{{- fail "notifications.google.accounts does nothing without notifications.enabled" }}
{{- end }}
{{- $flags := dict
  "operator-namespace" "helm's --namespace" "http-address" "listenAddress" "log-level" "log.level" "log-format" "log.format"
  "concurrency" "concurrency" "sweep-seconds" "sweepSeconds" "ttl-seconds-after-finished" "ttlSecondsAfterFinished"
  "namespace" "scopedNamespace" "leader-elect" "leaderElect" "watch-secrets" "watchSecrets"
  "share-credentials-with-namespaces" "shareCredentialsWithNamespaces" "allow-private-endpoints" "allowPrivateEndpoints"
  "deny-endpoints" "denyEndpoints" "allow-secret-metadata" "allowSecretMetadata"
  "allow-secret-metadata" "allowSecretMetadata"
  "tenant-store-requests" "tenantStoreRequests"
  "notifications-address" "notifications.enabled" "notifications-token-file" "notifications.existingSecret"
  "notifications-sns-topics" "notifications.snsTopics" "notifications-google-accounts" "notifications.google.accounts"
  "notifications-google-audience" "notifications.google.audience" }}
{{- range $arg := .Values.extraArgs }}
{{- with get $flags (splitList "=" $arg | first | trimPrefix "--") }}
{{- fail (printf "extraArgs has %s: say that with %s, which sets what belongs to it, too" $arg .) }}
{{- end }}
{{- end }}
{{- if and .Values.notifications.enabled (eq (int .Values.notifications.port) (int .Values.service.port)) }}
{{- fail "notifications.port and service.port are ports of one Service and must differ" }}
{{- end }}
{{- if .Values.leaderElect }}
{{- range (lookup "apps/v1" "Deployment" .Release.Namespace "").items }}
{{- $labels := default dict .metadata.labels }}
{{- $instance := get $labels "app.kubernetes.io/instance" }}
{{- if and (hasPrefix "valet-" (get $labels "helm.sh/chart")) $instance (ne $instance $.Release.Name) }}
{{- fail (printf "release %s of this chart is in namespace %s already, and two would share one Lease, for which one of them would wait for ever: choose another namespace" $instance $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
