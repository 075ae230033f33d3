{{/* The name of everything in this release; at most 52 characters, so that suffixes fit into 63. */}}
{{- define "vectorizer-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods; never changes over a release's life. */}}
{{- define "vectorizer-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vectorizer-operator.labels" -}}
{{ include "vectorizer-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image's reference, of its values and the version that an empty tag stands for. */}}
{{- define "vectorizer-operator.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .version) -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* The name of cluster-wide objects; the namespace in it tells them from another team's. */}}
{{- define "vectorizer-operator.clusterName" -}}
{{- printf "%s-%s" (include "vectorizer-operator.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "vectorizer-operator.webhookService" -}}
{{- printf "%s-webhook" (include "vectorizer-operator.fullname" .) -}}
{{- end -}}

{{/* Not empty where ServiceMonitors and PrometheusRules can be made. */}}
{{- define "vectorizer-operator.hasPrometheusOperator" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}yes{{ end -}}
{{- end -}}
