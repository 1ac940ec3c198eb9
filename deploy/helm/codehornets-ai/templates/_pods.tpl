{{- /* What Pod Security `restricted` asks of a pod. Called with the user's number. */ -}}
{{- define "pods.security" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pods.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Called with a dict of the root and the image's name in values. */ -}}
{{- define "pods.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "pods.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{- define "pods.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}

{{- /* All pods of transport `volume` on one node: the claim can be mounted there alone. */ -}}
{{- define "pods.place" -}}
{{- if eq .Values.transport "volume" }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {app.kubernetes.io/name: codehornets-ai}}
{{- end }}
{{- end }}

{{- /* What checkov would have otherwise, and why. */ -}}
{{- define "pods.exceptions" -}}
checkov.io/skip1: CKV_K8S_15=a tag of a release never changes, and a start must not wait for a registry
checkov.io/skip2: CKV_K8S_40=the images and the files on the claims belong to this user
checkov.io/skip3: CKV_K8S_43=a digest is given in the overlay or the values where a release is rolled out
{{- end }}
