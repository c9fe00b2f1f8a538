package provider

import (
	"context"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/listdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type policyModel struct {
	base
	Name               types.String      `tfsdk:"name"`
	Description        types.String      `tfsdk:"description"`
	Mode               types.String      `tfsdk:"mode"`
	Position           types.Int64       `tfsdk:"position"`
	InspectedLengthMax types.Int64       `tfsdk:"inspected_length_max"`
	OnTooLarge         types.String      `tfsdk:"on_too_large"`
	Match              *policyMatchModel `tfsdk:"match"`
	Rules              []policyRuleModel `tfsdk:"rules"`
	WebhookIDs         types.List        `tfsdk:"webhook_ids"`
	WebhookBudgetMs    types.Int64       `tfsdk:"webhook_budget_ms"`
	Capture            *captureModel     `tfsdk:"capture"`
}

type captureModel struct {
	Directions    types.Set   `tfsdk:"directions"`
	BytesMax      types.Int64 `tfsdk:"bytes_max"`
	RetentionDays types.Int64 `tfsdk:"retention_days"`
}

type policyMatchModel struct {
	Directions   types.Set    `tfsdk:"directions"`
	ServerIDs    types.Set    `tfsdk:"server_ids"`
	ServerLabels types.Map    `tfsdk:"server_labels"`
	PrincipalIDs types.Set    `tfsdk:"principal_ids"`
	GroupIDs     types.Set    `tfsdk:"group_ids"`
	Tools        types.Set    `tfsdk:"tools"`
	Prompts      types.Set    `tfsdk:"prompts"`
	Resources    types.Set    `tfsdk:"resources"`
	RiskMin      types.String `tfsdk:"risk_min"`
}

type policyRuleModel struct {
	Detector    types.String `tfsdk:"detector"`
	Action      types.String `tfsdk:"action"`
	SeverityMin types.String `tfsdk:"severity_min"`
	Categories  types.Set    `tfsdk:"categories"`
}

// The API's own defaults, which taking a value out of the configuration takes it back to.
const (
	policyPositionDefault  = 1000
	inspectedLengthDefault = 1048576
	capturedBytesDefault   = 65536
	retentionDaysDefault   = 30
)

var policyMatchAttributes = map[string]schema.Attribute{
	"directions": schema.SetAttribute{
		MarkdownDescription: "Which way messages go: `request`, from clients to servers, and `response`, from servers to clients; " +
			"both if absent.",
		ElementType: types.StringType,
		Optional:    true,
		Computed:    true,
		Default:     setdefault.StaticValue(setOf(nil)),
		Validators:  []validator.Set{setvalidator.ValueStringsAre(oneOf(lowered(api.AllPolicyDirection)...))},
	},
	"server_ids":    texts("Ids of servers. With neither servers nor labels it is about every server."),
	"server_labels": labels("Makes it about servers that carry all of these labels, besides those named."),
	"principal_ids": texts("Ids of users and service accounts. With neither principals nor groups it is about everybody."),
	"group_ids":     texts("Ids of groups whose members it is about, besides the principals named."),
	"tools": texts("Tools by exact name or glob. With no tools, prompts and resources it is about every message, of any " +
		"method."),
	"prompts":   texts("Prompts by exact name or glob."),
	"resources": texts("Resources by exact URI or glob."),
	"risk_min": schema.StringAttribute{
		MarkdownDescription: "Only calls of tools of at least this risk, and of tools whose risk nobody has judged: `low`, " +
			"`medium`, `high` or `critical`.",
		Optional:   true,
		Validators: []validator.String{oneOf(risks...)},
	},
}

var policyRuleAttributes = map[string]schema.Attribute{
	"detector": required("What looks: "+listed(lowered(api.AllDetector))+".", oneOf(lowered(api.AllDetector)...)),
	"action": required("What is done about what it finds: `block`, the message does not go on; `redact`, what was found is "+
		"replaced; `label`, the message goes on, labelled in the audit trail.", oneOf("block", "redact", "label")),
	"severity_min": schema.StringAttribute{
		MarkdownDescription: "Findings below pass: `low`, `medium`, `high` or `critical`; what the detector deems sure enough if " +
			"absent.",
		Optional:   true,
		Validators: []validator.String{oneOf(lowered(api.AllFindingSeverity)...)},
	},
	"categories": texts("Kinds of findings it is about, as the API's `inspectionDetectors` lists them; all if absent."),
}

var captureAttributes = map[string]schema.Attribute{
	"directions": schema.SetAttribute{
		MarkdownDescription: "Which messages are kept: `request`, `response` or both.",
		ElementType:         types.StringType,
		Required:            true,
		Validators: []validator.Set{
			setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(oneOf(lowered(api.AllPolicyDirection)...)),
		},
	},
	"bytes_max": defaultedNumber("Most bytes kept of one direction of an exchange, 1024 to 1048576; `65536` if absent. What does "+
		"not fit is left out and counted.", capturedBytesDefault),
	"retention_days": defaultedNumber("Days after which what was kept is deleted, 1 to 366; `30` if absent. A change holds for "+
		"what is kept already too.", retentionDaysDefault),
}

var policySchema = schema.Schema{
	MarkdownDescription: "What is looked for in messages between clients and servers, and what is done about it. Policies " +
		"open nothing: grants do that. Begin with the mode `shadow`, and look in the audit at what it would have stopped.",
	Attributes: map[string]schema.Attribute{
		"name": required("What administrators call it: 1 to 128 characters. It need not be unique, but only a unique name " +
			"can be imported by."),
		"description": defaulted("Why it exists, at most 2000 characters.", ""),
		"mode": defaulted("`enforce`: it acts; `shadow`: it changes nothing, and the audit tells what it would have done; "+
			"`off`. `shadow` if absent.", "shadow", oneOf(lowered(api.AllPolicyMode)...)),
		"position": defaultedNumber("Of policies about the same message, lower decides first; of equal ones the older. `1000` if "+
			"absent.", policyPositionDefault),
		"inspected_length_max": defaultedNumber("Most text of one message that it looks at, in UTF-16 units; `1048576` if absent.",
			inspectedLengthDefault),
		"on_too_large": defaulted("What becomes of a message with more text: `block`, or `allow`, it goes on without a look, "+
			"which the audit tells. `block` if absent.", "block", oneOf(lowered(api.AllTooLargeOutcome)...)),
		"match": schema.SingleNestedAttribute{
			MarkdownDescription: "What it is about; everything if absent.",
			Optional:            true,
			Validators:          []validator.Object{saysSomething{}},
			Attributes:          policyMatchAttributes,
		},
		"rules": schema.ListNestedAttribute{
			MarkdownDescription: "What it does; the first rule that covers a finding decides. Empty where it only asks webhooks " +
				"or captures.",
			Required:     true,
			NestedObject: schema.NestedAttributeObject{Attributes: policyRuleAttributes},
		},
		"webhook_ids": schema.ListAttribute{
			MarkdownDescription: "Ids of webhooks that are asked about what the rules let through, in order, at most 8.",
			ElementType:         types.StringType,
			Optional:            true,
			Computed:            true,
			Default:             listdefault.StaticValue(listOf(nil)),
		},
		"webhook_budget_ms": schema.Int64Attribute{
			MarkdownDescription: "For all webhooks asked about one message together, in milliseconds; 2000 if absent. Of several " +
				"policies the longest holds.",
			Optional: true,
		},
		"capture": schema.SingleNestedAttribute{
			MarkdownDescription: "Which messages of the exchanges it is about are kept for auditors: sealed, and without the secrets " +
				"in them. Nothing if absent, and while the mode is not `enforce`. Needs a key-encryption key at the control plane.",
			Optional:   true,
			Attributes: captureAttributes,
		},
	},
}

var policyKind = kind[policyModel]{
	name:   "policy",
	schema: policySchema,
	standIns: []string{
		"match.server_ids", "match.server_ids.*", "match.principal_ids", "match.principal_ids.*",
		"match.group_ids", "match.group_ids.*", "webhook_ids", "webhook_ids.*",
	},
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.PolicyFields, error) { return c.AllPolicies(ctx) },
			func(policy api.PolicyFields) bool { return policy.Name == key },
			func(policy api.PolicyFields) string { return policy.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *policyModel) (int, error) {
		answer, err := api.ReadPolicy(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.Policy)
		return answer.Policy.Revision, nil
	},
	create: func(ctx context.Context, c *api.Client, m *policyModel, by change) (outcome, error) {
		answer, err := api.CreatePolicy(ctx, c, api.CreatePolicyInput{
			Name:               m.Name.ValueString(),
			Description:        optional.Of(m.Description.ValueString()),
			Mode:               optional.Of(upper[api.PolicyMode](m.Mode)),
			Position:           nullableInt(m.Position),
			InspectedLengthMax: nullableInt(m.InspectedLengthMax),
			OnTooLarge:         optional.Of(upper[api.TooLargeOutcome](m.OnTooLarge)),
			Match:              optional.Of(m.Match.input()),
			Rules:              m.rules(),
			WebhookIds:         idsOf(m.WebhookIDs),
			WebhookBudgetMs:    nullableInt(m.WebhookBudgetMs),
			Capture:            m.Capture.input(),
			DryRun:             by.dryRun,
			IdempotencyKey:     api.IdempotencyKey(),
		})
		return m.outcome(answer.CreatePolicy, by, err)
	},
	update: func(ctx context.Context, c *api.Client, _ policyModel, m *policyModel, by change) (outcome, error) {
		answer, err := api.UpdatePolicy(ctx, c, api.UpdatePolicyInput{
			Id:                 m.ID.ValueString(),
			ExpectedRevision:   atRevision(by),
			Name:               optional.Of(m.Name.ValueString()),
			Description:        optional.Of(m.Description.ValueString()),
			Mode:               optional.Of(upper[api.PolicyMode](m.Mode)),
			Position:           nullableInt(m.Position),
			InspectedLengthMax: nullableInt(m.InspectedLengthMax),
			OnTooLarge:         optional.Of(upper[api.TooLargeOutcome](m.OnTooLarge)),
			Match:              optional.Of(m.Match.input()),
			Rules:              m.rules(),
			WebhookIds:         idsOf(m.WebhookIDs),
			WebhookBudgetMs:    nullableInt(m.WebhookBudgetMs),
			Capture:            m.Capture.input(),
			DryRun:             by.dryRun,
		})
		return m.outcome(answer.UpdatePolicy, by, err)
	},
	remove: func(ctx context.Context, c *api.Client, m policyModel, by change) (outcome, error) {
		_, err := api.DeletePolicy(ctx, c, api.DeletePolicyInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func (m *policyModel) outcome(policy api.PolicyFields, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.fill(policy)
	}
	return outcome{revision: policy.Revision}, err
}

func (m *policyModel) fill(policy api.PolicyFields) {
	m.ID = types.StringValue(policy.Id)
	m.Name = types.StringValue(policy.Name)
	m.Description = types.StringValue(policy.Description)
	m.Mode = types.StringValue(lower(policy.Mode))
	m.Position = types.Int64Value(int64(policy.Position))
	m.InspectedLengthMax = types.Int64Value(int64(policy.InspectedLengthMax))
	m.OnTooLarge = types.StringValue(lower(policy.OnTooLarge))
	// A match that says nothing is one that the configuration leaves out, unless it spelled out that there is nothing.
	if m.Match != nil || saysAnything(policy.Match) {
		m.Match = &policyMatchModel{
			Directions:   setOf(lowered(policy.Match.Directions)),
			ServerIDs:    setOf(policy.Match.ServerIds),
			ServerLabels: mapOf(policy.Match.ServerLabels),
			PrincipalIDs: setOf(policy.Match.PrincipalIds),
			GroupIDs:     setOf(policy.Match.GroupIds),
			Tools:        setOf(policy.Match.Tools),
			Prompts:      setOf(policy.Match.Prompts),
			Resources:    setOf(policy.Match.Resources),
			RiskMin:      enumFrom(policy.Match.RiskMin),
		}
	}
	m.WebhookIDs, m.WebhookBudgetMs = listOf(policy.WebhookIds), intFrom(policy.WebhookBudgetMs)
	m.Capture = captureOf(policy)
	m.Rules = []policyRuleModel{}
	for _, rule := range policy.Rules {
		m.Rules = append(m.Rules, policyRuleModel{
			Detector:    types.StringValue(lower(rule.Detector)),
			Action:      types.StringValue(lower(rule.Action)),
			SeverityMin: enumFrom(rule.SeverityMin),
			Categories:  setOf(rule.Categories),
		})
	}
}

func captureOf(policy api.PolicyFields) *captureModel {
	capture, captures := policy.Capture.Get()
	if !captures {
		return nil
	}
	return &captureModel{
		Directions:    setOf(lowered(capture.Directions)),
		BytesMax:      types.Int64Value(int64(capture.BytesMax)),
		RetentionDays: types.Int64Value(int64(capture.RetentionDays)),
	}
}

func (m *captureModel) input() optional.Value[api.PolicyCaptureInput] {
	if m == nil {
		return optional.Null[api.PolicyCaptureInput]()
	}
	return optional.Of(api.PolicyCaptureInput{
		Directions:    uppers[api.PolicyDirection](m.Directions),
		BytesMax:      nullableInt(m.BytesMax),
		RetentionDays: nullableInt(m.RetentionDays),
	})
}

func saysAnything(match api.PolicyMatchFields) bool {
	_, hasRisk := match.RiskMin.Get()
	return hasRisk || len(match.Directions)+len(match.ServerLabels) > 0 ||
		len(match.ServerIds)+len(match.PrincipalIds)+len(match.GroupIds) > 0 ||
		len(match.Tools)+len(match.Prompts)+len(match.Resources) > 0
}

// input says a match as a whole, as the API takes it; one without anything is about everything.
func (m *policyMatchModel) input() api.PolicyMatchInput {
	if m == nil {
		return api.PolicyMatchInput{}
	}
	return api.PolicyMatchInput{
		Directions:   uppers[api.PolicyDirection](m.Directions),
		ServerIds:    stringsOf(m.ServerIDs),
		ServerLabels: labelsOf(m.ServerLabels),
		PrincipalIds: stringsOf(m.PrincipalIDs),
		GroupIds:     stringsOf(m.GroupIDs),
		Tools:        stringsOf(m.Tools),
		Prompts:      stringsOf(m.Prompts),
		Resources:    stringsOf(m.Resources),
		RiskMin:      enumOrNull[api.ToolRisk](m.RiskMin),
	}
}

func (m *policyModel) rules() []api.PolicyRuleInput {
	rules := []api.PolicyRuleInput{}
	for _, rule := range m.Rules {
		rules = append(rules, api.PolicyRuleInput{
			Detector:    upper[api.Detector](rule.Detector),
			Action:      upper[api.PolicyAction](rule.Action),
			SeverityMin: enumOrNull[api.FindingSeverity](rule.SeverityMin),
			Categories:  stringsOf(rule.Categories),
		})
	}
	return rules
}

// listed are values as a page writes them: `a`, `b` or `c`.
func listed(values []string) string {
	last := len(values) - 1
	return "`" + strings.Join(values[:last], "`, `") + "` or `" + values[last] + "`"
}
