{{/* What the pods of both roles share. Call with (dict "root" $ "role" "score"). */}}

{{- define "xmasd.selector" -}}
app.kubernetes.io/name: xmasd
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "xmasd.claim" -}}
{{- $claim := index .root.Values.volumes .name -}}
{{ $claim.existingClaim | default (printf "%s-%s" .root.Release.Name .name) }}
{{- end }}

{{- define "xmasd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "xmasd.containerSecurity" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
{{- end }}

{{- define "xmasd.probes" -}}
startupProbe: { httpGet: { path: /readyz, port: http }, periodSeconds: 10, failureThreshold: {{ .startupFailuresMax }} }
readinessProbe: { httpGet: { path: /readyz, port: http }, periodSeconds: 10, timeoutSeconds: 5 }
livenessProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 30, timeoutSeconds: 5 }
{{- end }}

{{- define "xmasd.env" -}}
- { name: XMASD_LOG_TLS_ENABLED, value: 'true' }
- { name: XMASD_LOG_TLS_CA, value: /run/secrets/kafka/ca.pem }
- { name: XMASD_LOG_SASL_MECHANISM, value: {{ .mechanism }} }
- { name: XMASD_LOG_SASL_USERNAME, valueFrom: { secretKeyRef: { name: {{ .secretName }}, key: username } } }
- { name: XMASD_LOG_SASL_PASSWORD_FILE, value: /run/secrets/kafka/password }
{{- end }}
