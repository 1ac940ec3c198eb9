{{- define "settings.redis" -}}
{{- if ne .Values.transport "volume" }}
DEFAULT_REDIS_URL: {{ .Values.redis.bundled | ternary "redis://redis:6379/0" .Values.redis.url | quote }}
REDIS_PASSWORD_FILE: /run/secrets/redis/password
{{- if eq .Values.mode "event-driven" }}
ACTIVATION_MODE: redis
{{- end }}
{{- end }}
{{- end }}

{{- define "settings.worker" -}}
WORKER_MODE: {{ .Values.mode }}
AGENT: {{ .Values.agent }}
LOG_LEVEL: {{ .Values.logLevel }}
# 40 s for running tasks and 15 s to end what still runs stay below terminationGracePeriodSeconds.
SHUTDOWN_GRACE: "40"
{{- if eq .Values.model.credential "oauth-token" }}
CLAUDE_CODE_OAUTH_TOKEN_FILE: /run/secrets/model/claude_code_oauth_token
{{- else }}
ANTHROPIC_API_KEY_FILE: {{ eq .Values.model.credential "api-key" | ternary "/run/secrets/model/anthropic_api_key" "" | quote }}
{{- end }}
{{- if eq .Values.transport "redis-only" }}
SHARED_DIR: ""
PIPE_DIR: /run/codehornets/pipes
{{- end }}
{{- include "settings.redis" . }}
{{- range $name, $value := .Values.worker.environment }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "settings.orchestrator" -}}
WORKER_MODE: {{ .Values.mode }}
LOG_LEVEL: {{ .Values.logLevel }}
{{- include "settings.redis" . }}
{{- range $name, $value := .Values.orchestrator.environment }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "settings.team" -}}
team.toml: {{ .Values.team.file | default (.Files.Get "files/team/team.toml") | toJson }}
{{- end }}

{{- define "settings.outputStyles" -}}
{{- if .Values.team.outputStyles }}
{{- toYaml .Values.team.outputStyles }}
{{- else }}
{{- range $path, $_ := .Files.Glob "files/team/output-styles/*" }}
{{ base $path }}: {{ $.Files.Get $path | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- define "settings.hookRules" -}}
{{- if .Values.team.hookRules }}
{{- toYaml .Values.team.hookRules }}
{{- else }}
{{- range $path, $_ := .Files.Glob "files/team/hooks-config/*" }}
{{ base $path }}: {{ $.Files.Get $path | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Changes with all that is read at a start only, so that pods are renewed; hook rules are taken by `reload`. */ -}}
{{- define "settings.checksum" -}}
{{- list (include "settings.team" .) (include "settings.outputStyles" .) (include "settings.worker" .) (include "settings.orchestrator" .) | toJson | sha256sum }}
{{- end }}

{{- /* What one worker says for itself; the rest is in the ConfigMap. Called with its entry in `workers`. */ -}}
{{- define "workers.environment" -}}
{{- with .environment }}
env:
{{- range $name, $value := . }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end }}
