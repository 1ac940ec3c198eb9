{{- /* What every object carries. Called with a dict of the root, `component` and `instance`. */ -}}
{{- define "labels.all" -}}
app.kubernetes.io/name: codehornets-ai
app.kubernetes.io/part-of: codehornets-ai
app.kubernetes.io/version: {{ .root.Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .instance }}
app.kubernetes.io/instance: {{ . }}
{{- end }}
{{- end }}

{{- /* By what a pod is found; these never change. */ -}}
{{- define "labels.selector" -}}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .instance }}
{{- end }}

{{- /* The team's pods that speak to others. */ -}}
{{- define "labels.team" -}}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [worker, orchestrator]}
{{- end }}
