{{- /* A replica that goes interrupts its tasks: one at a time, and not at once. */ -}}
{{- define "autoscaling.calm" -}}
scaleDown:
  stabilizationWindowSeconds: 300
  policies:
    - {type: Pods, value: 1, periodSeconds: 120}
{{- end }}
