package provider

import (
	"context"
	"reflect"
	"regexp"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type webhookModel struct {
	base
	brought
	Name              types.String `tfsdk:"name"`
	Description       types.String `tfsdk:"description"`
	URL               types.String `tfsdk:"url"`
	Mode              types.String `tfsdk:"mode"`
	Events            types.Set    `tfsdk:"events"`
	FailMode          types.String `tfsdk:"fail_mode"`
	Content           types.String `tfsdk:"content"`
	DeadlineMs        types.Int64  `tfsdk:"deadline_ms"`
	PayloadBytesMax   types.Int64  `tfsdk:"payload_bytes_max"`
	MutablePaths      types.Set    `tfsdk:"mutable_paths"`
	Algorithm         types.String `tfsdk:"algorithm"`
	Interceptor       types.String `tfsdk:"interceptor"`
	KeyOverlapSeconds types.Int64  `tfsdk:"key_overlap_seconds"`
	SigningPublicKeys types.Set    `tfsdk:"signing_public_keys"`
}

const (
	webhookSecretPrefix    = "whsec_"
	webhookDeadlineDefault = 500
	webhookPayloadDefault  = 1048576
	keyOverlapDefault      = 24 * 3600
	keyOverlapMax          = 30 * 24 * 3600
)

var webhookSecret = regexp.MustCompile("^" + webhookSecretPrefix + `[A-Za-z0-9+/]{32,88}={0,2}$`)

var webhookSchema = schema.Schema{
	MarkdownDescription: "Who is asked about messages outside of the gateway (Standard Webhooks). It is asked where a " +
		"`sallyport_policy` names it in `webhook_ids`, and says in the mode `shadow` what it would have said. What is sent is " +
		"signed: by a shared secret that the configuration brings along in a write-only attribute, in no state and no plan " +
		"(needs Terraform 1.11), or by a private key that stays in the gateway.",
	Attributes: map[string]schema.Attribute{
		"name":        required("What administrators call it: 1 to 128 characters. It need not be unique, but only a unique name can be imported by."),
		"description": defaulted("Why it exists, at most 2000 characters.", ""),
		"url": required("Where events are posted: https, or http to the machine itself. Nodes dial it under their egress " +
			"rules."),
		"mode": defaulted("`enforce`: what it says counts where the policy that names it acts; `shadow`: it is asked, and the audit "+
			"trail alone tells what it said; `off`. `shadow` if absent.", "shadow", oneOf(lowered(api.AllWebhookMode)...)),
		"events": schema.SetAttribute{
			MarkdownDescription: "What it is asked about or told of: " + listed(lowered(api.AllWebhookEvent)) + ".",
			ElementType:         types.StringType,
			Required:            true,
			Validators: []validator.Set{
				setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(oneOf(lowered(api.AllWebhookEvent)...)),
			},
		},
		"fail_mode": defaulted("What becomes of a message about which it gave no valid verdict: `closed`, it does not go on, or "+
			"`open`, it does, which the audit trail tells each time. `closed` if absent.", "closed",
			oneOf(lowered(api.AllWebhookFailMode)...)),
		"content": defaulted("What it gets of messages: `full`; `redacted`, without the secrets and personal data that the detectors "+
			"find; `digest`, digest and size alone. `redacted` if absent.", "redacted", oneOf(lowered(api.AllWebhookContent)...)),
		"deadline_ms": defaultedNumber("How long it is waited for, in milliseconds: 50 to 10000; `500` if absent.",
			webhookDeadlineDefault),
		"payload_bytes_max": defaultedNumber("Messages of more bytes are a failure: 1024 to 4194304; `1048576` if absent.",
			webhookPayloadDefault),
		"mutable_paths": texts("JSON pointers at or below which it may change a message, such as `/params/arguments` or " +
			"`/result/structuredContent`. None if absent: it may not."),
		"algorithm": defaulted("How what is sent is signed: `hmac`, HMAC-SHA256 by `secret_wo`, or `ed25519`, by a private key that "+
			"nobody else has. Another one makes another webhook. `hmac` if absent.", "hmac",
			oneOf(lowered(api.AllWebhookAlgorithm)...)),
		"interceptor": optionalText("Of an MCP server of interceptors (SEP-2624) at the URL, the name of the one that is invoked; if " +
			"absent, the URL takes the events of this gateway. What was the one becomes the other only as another webhook."),
		"secret_wo": schema.StringAttribute{
			MarkdownDescription: "The shared secret, needed for `hmac`: `whsec_` and 24 to 64 random bytes in base64, such as of " +
				"`base64encode` of an ephemeral `random_password`. Kept in no state and no plan.",
			Optional:   true,
			WriteOnly:  true,
			Sensitive:  true,
			Validators: []validator.String{stringvalidator.RegexMatches(webhookSecret, "must be whsec_ and 24 to 64 random bytes in base64")},
		},
		"secret_wo_version": raised("Raise it to sign by another key, `secret_wo` as it is then, or for `ed25519` one that is made; " +
			"those before sign beside it for `key_overlap_seconds`. `1` if absent."),
		"key_overlap_seconds": boundedNumber("How long keys that are replaced sign beside the new one: 0 to 2592000; `86400` if "+
			"absent.", keyOverlapDefault, 0, keyOverlapMax),
		"signing_public_keys": schema.SetAttribute{
			MarkdownDescription: "The public keys, `whpk_…`, that a receiver verifies by while they sign; none for `hmac`.",
			ElementType:         types.StringType,
			Computed:            true,
		},
	},
}

var webhookKind = kind[webhookModel]{
	name:       "webhook",
	schema:     webhookSchema,
	fixed:      []string{"algorithm"},
	permanent:  []string{"interceptor"},
	standIns:   []string{"secret_wo"},
	violations: map[string]string{"secret": "secret_wo", "overlapSeconds": "key_overlap_seconds"},
	carry:      func(config webhookModel, m *webhookModel) { m.SecretWO = config.SecretWO },
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.WebhookFields, error) { return c.AllWebhooks(ctx) },
			func(webhook api.WebhookFields) bool { return webhook.Name == key },
			func(webhook api.WebhookFields) string { return webhook.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *webhookModel) (int, error) {
		answer, err := api.ReadWebhook(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.Webhook)
		return answer.Webhook.Revision, nil
	},
	create: createWebhook,
	update: updateWebhook,
	remove: func(ctx context.Context, c *api.Client, m webhookModel, by change) (outcome, error) {
		_, err := api.DeleteWebhook(ctx, c, api.DeleteWebhookInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func createWebhook(ctx context.Context, c *api.Client, m *webhookModel, by change) (outcome, error) {
	secret, err := m.signingSecret()
	if err != nil {
		return outcome{}, err
	}
	answer, err := api.CreateWebhook(ctx, c, api.CreateWebhookInput{
		Name:            m.Name.ValueString(),
		Description:     optional.Of(m.Description.ValueString()),
		Url:             m.URL.ValueString(),
		Mode:            optional.Of(upper[api.WebhookMode](m.Mode)),
		Events:          uppers[api.WebhookEvent](m.Events),
		FailMode:        optional.Of(upper[api.WebhookFailMode](m.FailMode)),
		Content:         optional.Of(upper[api.WebhookContent](m.Content)),
		DeadlineMs:      nullableInt(m.DeadlineMs),
		PayloadBytesMax: nullableInt(m.PayloadBytesMax),
		MutablePaths:    stringsOf(m.MutablePaths),
		Algorithm:       optional.Of(upper[api.WebhookAlgorithm](m.Algorithm)),
		Interceptor:     nullable(m.Interceptor),
		Secret:          secret,
		DryRun:          by.dryRun,
		IdempotencyKey:  api.IdempotencyKey(),
	})
	return m.outcome(answer.CreateWebhook.Webhook, by, err)
}

// updateWebhook changes what is said of it, and after that its key.
func updateWebhook(ctx context.Context, c *api.Client, before webhookModel, m *webhookModel, by change) (outcome, error) {
	told := outcome{revision: by.revision}
	if !reflect.DeepEqual(before.changes(by), m.changes(by)) {
		answer, err := api.UpdateWebhook(ctx, c, m.changes(by))
		if told, err = m.outcome(answer.UpdateWebhook, by, err); err != nil {
			return told, err
		}
	}
	if m.SecretWOVersion.Equal(before.SecretWOVersion) {
		return m.outcomeNow(ctx, c, told, by)
	}
	secret, err := m.signingSecret()
	if err != nil {
		return told, err
	}
	input := api.RotateWebhookKeyInput{
		Id:             m.ID.ValueString(),
		Secret:         secret,
		OverlapSeconds: nullableInt(m.KeyOverlapSeconds),
		DryRun:         by.dryRun,
	}
	if !by.dryRun {
		input.ExpectedRevision = atRevision(change{revision: told.revision})
	}
	answer, err := api.RotateWebhookKey(ctx, c, input)
	return m.outcome(answer.RotateWebhookKey.Webhook, by, err)
}

// outcomeNow reads what only the API sets where nothing was changed that would have told it.
func (m *webhookModel) outcomeNow(ctx context.Context, c *api.Client, told outcome, by change) (outcome, error) {
	if by.dryRun || !m.SigningPublicKeys.IsUnknown() {
		return told, nil
	}
	answer, err := api.ReadWebhook(ctx, c, m.ID.ValueString())
	return m.outcome(answer.Webhook, by, err)
}

func (m *webhookModel) changes(by change) api.UpdateWebhookInput {
	input := api.UpdateWebhookInput{
		Id:               m.ID.ValueString(),
		ExpectedRevision: atRevision(by),
		Name:             optional.Of(m.Name.ValueString()),
		Description:      optional.Of(m.Description.ValueString()),
		Url:              optional.Of(m.URL.ValueString()),
		Mode:             optional.Of(upper[api.WebhookMode](m.Mode)),
		Events:           uppers[api.WebhookEvent](m.Events),
		FailMode:         optional.Of(upper[api.WebhookFailMode](m.FailMode)),
		Content:          optional.Of(upper[api.WebhookContent](m.Content)),
		DeadlineMs:       nullableInt(m.DeadlineMs),
		PayloadBytesMax:  nullableInt(m.PayloadBytesMax),
		MutablePaths:     stringsOf(m.MutablePaths),
		DryRun:           by.dryRun,
	}
	if !m.Interceptor.IsNull() {
		input.Interceptor = optional.Of(m.Interceptor.ValueString())
	}
	return input
}

// signingSecret is the secret for HMAC; a private key is made by the gateway, and given to nobody.
func (m *webhookModel) signingSecret() (optional.Value[string], error) {
	if upper[api.WebhookAlgorithm](m.Algorithm) == api.WebhookAlgorithmHmac {
		return m.secret()
	}
	if !m.SecretWO.IsNull() {
		return optional.Value[string]{}, invalid("input.secret", "is for hmac alone: private keys are made by the gateway and stay there")
	}
	return optional.Value[string]{}, nil
}

func (m *webhookModel) outcome(webhook api.WebhookFields, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.fill(webhook)
	}
	return outcome{revision: webhook.Revision}, err
}

func (m *webhookModel) fill(webhook api.WebhookFields) {
	m.ID = types.StringValue(webhook.Id)
	m.Name, m.Description = types.StringValue(webhook.Name), types.StringValue(webhook.Description)
	m.URL = types.StringValue(webhook.Url)
	m.Mode, m.FailMode = types.StringValue(lower(webhook.Mode)), types.StringValue(lower(webhook.FailMode))
	m.Events = setOf(lowered(webhook.Events))
	m.Content, m.Algorithm = types.StringValue(lower(webhook.Content)), types.StringValue(lower(webhook.Algorithm))
	m.DeadlineMs = types.Int64Value(int64(webhook.DeadlineMs))
	m.PayloadBytesMax = types.Int64Value(int64(webhook.PayloadBytesMax))
	m.MutablePaths = setOf(webhook.MutablePaths)
	m.Interceptor = stringFrom(webhook.Interceptor)
	if m.KeyOverlapSeconds.IsNull() {
		m.KeyOverlapSeconds = types.Int64Value(keyOverlapDefault)
	}
	m.SigningPublicKeys = setOf(publicKeysAt(time.Now(), webhook.SigningKeys))
	m.adopt()
}

// publicKeysAt are those of keys that have not ended.
func publicKeysAt(now time.Time, keys []api.SigningKeyFields) []string {
	var found []string
	for _, key := range keys {
		publicKey, isPublic := key.PublicKey.Get()
		end, ends := key.NotAfter.Get()
		at, err := time.Parse(time.RFC3339, end)
		if isPublic && (!ends || (err == nil && at.After(now))) {
			found = append(found, publicKey)
		}
	}
	return found
}
