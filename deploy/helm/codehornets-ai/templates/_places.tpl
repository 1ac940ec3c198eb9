{{- /* What team pods mount alike: their part of the shared directory, the team's files, Redis's password. */ -}}
{{- define "places.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: team, mountPath: /etc/codehornets/team.toml, subPath: team.toml, readOnly: true}
- {name: hook-rules, mountPath: /etc/codehornets/hooks-config, readOnly: true}
- {name: output-styles, mountPath: /etc/codehornets/output-styles, readOnly: true}
{{- if ne .Values.transport "volume" }}
- {name: redis, mountPath: /run/secrets/redis, readOnly: true}
{{- end }}
{{- end }}

{{- define "places.volumes" -}}
- {name: team, configMap: {name: team}}
- {name: hook-rules, configMap: {name: hook-rules}}
- {name: output-styles, configMap: {name: output-styles}}
{{- if ne .Values.transport "volume" }}
- {name: redis, secret: {secretName: {{ .Values.redis.secret }}, optional: true, defaultMode: 288}}
{{- end }}
{{- end }}

{{- /* Triggers lie in memory where none comes from another pod. */ -}}
{{- define "places.sharedMounts" -}}
- {name: shared, mountPath: /shared}
- {name: pipes, mountPath: /shared/pipes}
{{- if ne .Values.transport "volume" }}
- {name: triggers, mountPath: /shared/triggers}
{{- end }}
{{- end }}

{{- define "places.memory" -}}
- {name: pipes, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
{{- if ne .transport "volume" }}
- {name: triggers, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
{{- end }}
{{- end }}

{{- define "places.workerMounts" -}}
{{- if eq .Values.transport "redis-only" }}
- {name: pipes, mountPath: /run/codehornets}
{{- else }}
{{- include "places.sharedMounts" . }}
{{- end }}
- {name: home, mountPath: /home/codehornets}
- {name: workspace, mountPath: /workspace}
{{ include "places.mounts" . }}
- {name: model, mountPath: /run/secrets/model, readOnly: true}
{{- end }}

{{- /* A claim. Called with a dict of the root, `name`, `component`, `instance`, `class`, `size` and `accessMode`. */ -}}
{{- define "places.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "labels.all" . | nindent 4 }}
spec:
  accessModes: [{{ .accessMode }}]
  {{- with .class }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ .size }}}}
{{- end }}
