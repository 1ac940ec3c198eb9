{{- /* The head of a policy. Called with a dict of the root and `name`. */ -}}
{{- define "networkPolicy" }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "labels.all" . | nindent 4 }}
{{- end }}

{{- /* Who is let in by a label: a whole namespace, or a pod of this one. Called with `label` and `port`. */ -}}
{{- define "networkPolicy.letIn" }}
    - from:
        - namespaceSelector: {matchLabels: {codehornets.ai/{{ .label }}: "true"}}
        - podSelector: {matchLabels: {codehornets.ai/{{ .label }}: "true"}}
      ports:
        - {protocol: TCP, port: {{ .port }}}
{{- end }}
