{{- define "certmount.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "certmount.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "certmount.labels" -}}
{{ include "certmount.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "certmount.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Rules for what issuers need besides, by name. */}}
{{- define "certmount.byName" -}}
{{- with .Values.issuers.acmeAccounts }}
# The keys of ACME accounts, which the driver makes, by server-side apply: for that these rights can
# be held to names.
- apiGroups: [""]
  resources: [secrets]
  resourceNames:
    {{- toYaml . | nindent 4 }}
  verbs: [create, get, list, patch, watch]
{{- end }}
{{- with .Values.issuers.serviceAccounts }}
# Tokens of service accounts, for issuers that log in as these.
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames:
    {{- toYaml . | nindent 4 }}
  verbs: [create]
{{- end }}
{{- end }}
