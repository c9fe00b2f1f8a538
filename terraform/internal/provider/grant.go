package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type grantModel struct {
	base
	Name                 types.String  `tfsdk:"name"`
	Subject              *subjectModel `tfsdk:"subject"`
	ServerID             types.String  `tfsdk:"server_id"`
	ServerLabels         types.Map     `tfsdk:"server_labels"`
	Effect               types.String  `tfsdk:"effect"`
	Mode                 types.String  `tfsdk:"mode"`
	Tools                types.Set     `tfsdk:"tools"`
	Prompts              types.Set     `tfsdk:"prompts"`
	Resources            types.Set     `tfsdk:"resources"`
	Limits               *limitsModel  `tfsdk:"limits"`
	When                 types.String  `tfsdk:"when"`
	WhenArguments        types.String  `tfsdk:"when_arguments"`
	NotBefore            types.String  `tfsdk:"not_before"`
	NotAfter             types.String  `tfsdk:"not_after"`
	ConfigStalenessMaxMs types.Int64   `tfsdk:"config_staleness_max_ms"`
	Reason               types.String  `tfsdk:"reason"`
	Source               types.String  `tfsdk:"source"`
}

type subjectModel struct {
	Kind types.String `tfsdk:"kind"`
	ID   types.String `tfsdk:"id"`
}

type limitsModel struct {
	RiskMin     types.String `tfsdk:"risk_min"`
	RiskMax     types.String `tfsdk:"risk_max"`
	ReadOnly    types.Bool   `tfsdk:"read_only"`
	Destructive types.Bool   `tfsdk:"destructive"`
	Idempotent  types.Bool   `tfsdk:"idempotent"`
	OpenWorld   types.Bool   `tfsdk:"open_world"`
}

var risks = lowered(api.AllToolRisk)

func labelled(description string) schema.BoolAttribute {
	return schema.BoolAttribute{MarkdownDescription: "Only tools labelled so: " + description, Optional: true}
}

var grantSchema = schema.Schema{
	MarkdownDescription: "Who may, or may not, use which tools, prompts and resources of a server, and when. Without a " +
		"grant nobody may use anything; a `deny` wins over every `allow`. The plan tells whose access each change touches. " +
		"Grants that are made or changed at the same time go to the API in one request.",
	Attributes: map[string]schema.Attribute{
		"name": required("What administrators call it: 1 to 128 characters. It need not be unique, but only a unique name " +
			"can be imported by."),
		"subject": schema.SingleNestedAttribute{
			MarkdownDescription: "Whom it is for. Another subject makes another grant.",
			Required:            true,
			Attributes: map[string]schema.Attribute{
				"kind": required("`everyone`, `group`, `user` or `service_account`.", oneOf(lowered(api.AllSubjectKind)...)),
				"id":   optionalText("Id of the group, user or service account; absent for `everyone`."),
			},
		},
		"server_id": schema.StringAttribute{
			MarkdownDescription: "Id of the server it is about. Either this or `server_labels`; another one makes another grant.",
			Optional:            true,
		},
		"server_labels": schema.MapAttribute{
			MarkdownDescription: "Makes it about every server that carries all of these labels, now or later: 1 to 8.",
			ElementType:         types.StringType,
			Optional:            true,
			Validators: []validator.Map{
				mapvalidator.SizeAtLeast(1),
				mapvalidator.ExactlyOneOf(path.MatchRoot("server_id"), path.MatchRoot("server_labels")),
			},
		},
		"effect": required("`allow`, `deny` or `require_approval`. Another effect makes another grant.",
			oneOf(lowered(api.AllEffect)...)),
		"mode": defaulted("`enforce`, or `shadow`: it decides nothing, and the audit tells what it would have changed. "+
			"`enforce` if absent.", "enforce", oneOf(lowered(api.AllGrantMode)...)),
		"tools": texts("Tools by exact name or glob: `*` matches any characters. At least one of `tools`, `prompts` and " +
			"`resources` must select something."),
		"prompts":   texts("Prompts by exact name or glob."),
		"resources": texts("Resources and resource templates by exact URI or glob."),
		"limits": schema.SingleNestedAttribute{
			MarkdownDescription: "Narrows the tools by the labels that an administrator gave them (`sallyport_tool_labels`). " +
				"A tool without such a label is not opened by an allow, and is denied by a deny.",
			Optional:   true,
			Validators: []validator.Object{saysSomething{}},
			Attributes: map[string]schema.Attribute{
				"risk_min": schema.StringAttribute{
					MarkdownDescription: "Only tools of at least this risk: `low`, `medium`, `high` or `critical`.",
					Optional:            true,
					Validators:          []validator.String{oneOf(risks...)},
				},
				"risk_max": schema.StringAttribute{
					MarkdownDescription: "Only tools of at most this risk: `low`, `medium`, `high` or `critical`.",
					Optional:            true,
					Validators:          []validator.String{oneOf(risks...)},
				},
				"read_only":   labelled("whether it changes nothing."),
				"destructive": labelled("whether it can destroy something."),
				"idempotent":  labelled("whether calling it again changes nothing more."),
				"open_world":  labelled("whether it reaches beyond the organization."),
			},
		},
		"when": optionalText("Condition in CEL over `principal`, `server`, `client` and `now`; for lists and calls. The plan " +
			"checks it, with the position of what is wrong."),
		"when_arguments": optionalText("Condition in CEL over `target` and `arguments` besides; for calls alone, not for " +
			"resources."),
		"not_before": optionalInstant("No effect before, such as `2027-01-31T00:00:00Z`."),
		"not_after":  optionalInstant("No effect from then on."),
		"config_staleness_max_ms": schema.Int64Attribute{
			MarkdownDescription: "Opens nothing on a node without contact to the control plane for longer, in milliseconds; not " +
				"for a deny.",
			Optional:   true,
			Validators: []validator.Int64{int64validator.AtLeast(1)},
		},
		"reason": defaulted("Why it exists, at most 2000 characters.", ""),
		"source": told("How it came to be: `terraform` where Terraform made it."),
	},
}

var grantKind = kind[grantModel]{
	name:     "grant",
	schema:   grantSchema,
	fixed:    []string{"subject", "server_id", "server_labels", "effect"},
	standIns: []string{"subject.id", "server_id"},
	locate:   locateGrant,
	read:     readGrant,
	create:   createGrant,
	update:   updateGrant,
	remove:   removeGrant,
}

func locateGrant(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	return locateOne(key, func() ([]api.GrantFields, error) { return c.AllGrants(ctx, key) },
		func(grant api.GrantFields) bool { return grant.Name == key },
		func(grant api.GrantFields) string { return grant.Id })
}

func readGrant(ctx context.Context, c *api.Client, m *grantModel) (int, error) {
	grant, err := c.ReadGrant(ctx, m.ID.ValueString())
	if err != nil {
		return 0, err
	}
	m.fill(grant)
	return grant.Revision, nil
}

func (m *grantModel) fill(grant api.GrantFields) {
	m.ID = types.StringValue(grant.Id)
	m.Name = types.StringValue(grant.Name)
	m.Subject = &subjectModel{Kind: types.StringValue(lower(grant.Subject.Kind)), ID: stringFrom(grant.Subject.Id)}
	m.ServerID = stringFrom(grant.ServerId)
	m.ServerLabels = types.MapNull(types.StringType)
	if len(grant.ServerLabels) > 0 {
		m.ServerLabels = mapOf(grant.ServerLabels)
	}
	m.Effect = types.StringValue(lower(grant.Effect))
	m.Mode = types.StringValue(lower(grant.Mode))
	m.Tools, m.Prompts, m.Resources = setOf(grant.Tools), setOf(grant.Prompts), setOf(grant.Resources)
	m.Limits = limitsFrom(grant.Limits)
	m.When, m.WhenArguments = stringFrom(grant.When), stringFrom(grant.WhenArguments)
	m.NotBefore = optionalInstantFrom(m.NotBefore, grant.NotBefore)
	m.NotAfter = optionalInstantFrom(m.NotAfter, grant.NotAfter)
	m.ConfigStalenessMaxMs = intFrom(grant.ConfigStalenessMaxMs)
	m.Reason = types.StringValue(grant.Reason)
	m.Source = types.StringValue(lower(grant.Source))
}

func limitsFrom(told optional.Value[api.LimitFields]) *limitsModel {
	limits, ok := told.Get()
	if !ok {
		return nil
	}
	return &limitsModel{
		RiskMin:     enumFrom(limits.RiskMin),
		RiskMax:     enumFrom(limits.RiskMax),
		ReadOnly:    types.BoolPointerValue(limits.ReadOnly.Pointer()),
		Destructive: types.BoolPointerValue(limits.Destructive.Pointer()),
		Idempotent:  types.BoolPointerValue(limits.Idempotent.Pointer()),
		OpenWorld:   types.BoolPointerValue(limits.OpenWorld.Pointer()),
	}
}

func (l *limitsModel) input() optional.Value[api.GrantLimitsInput] {
	if l == nil {
		return optional.Null[api.GrantLimitsInput]()
	}
	return optional.Of(api.GrantLimitsInput{
		RiskMin:     enumOrNull[api.ToolRisk](l.RiskMin),
		RiskMax:     enumOrNull[api.ToolRisk](l.RiskMax),
		ReadOnly:    optional.FromPointer(l.ReadOnly.ValueBoolPointer()),
		Destructive: optional.FromPointer(l.Destructive.ValueBoolPointer()),
		Idempotent:  optional.FromPointer(l.Idempotent.ValueBoolPointer()),
		OpenWorld:   optional.FromPointer(l.OpenWorld.ValueBoolPointer()),
	})
}

func (m *grantModel) input() api.NewGrantInput {
	input := api.NewGrantInput{
		Name:                 m.Name.ValueString(),
		Subject:              api.GrantSubjectInput{Kind: upper[api.SubjectKind](m.Subject.Kind)},
		Effect:               upper[api.Effect](m.Effect),
		Mode:                 optional.Of(upper[api.GrantMode](m.Mode)),
		Tools:                stringsOf(m.Tools),
		Prompts:              stringsOf(m.Prompts),
		Resources:            stringsOf(m.Resources),
		Limits:               m.Limits.input(),
		When:                 nullable(m.When),
		WhenArguments:        nullable(m.WhenArguments),
		NotBefore:            nullable(m.NotBefore),
		NotAfter:             nullable(m.NotAfter),
		ConfigStalenessMaxMs: nullableInt(m.ConfigStalenessMaxMs),
		Reason:               optional.Of(m.Reason.ValueString()),
		Source:               optional.Of(api.GrantSourceTerraform),
	}
	if !m.Subject.ID.IsNull() {
		input.Subject.Id = optional.Of(idOr(m.Subject.ID))
	}
	if !m.ServerID.IsNull() {
		input.ServerId = optional.Of(idOr(m.ServerID))
	}
	if !m.ServerLabels.IsNull() {
		input.ServerLabels = labelsOf(m.ServerLabels)
	}
	return input
}

func createGrant(ctx context.Context, c *api.Client, m *grantModel, by change) (outcome, error) {
	grant, err := c.CreateGrant(ctx, m.input(), by.dryRun)
	return m.outcome(grant, by, err)
}

func updateGrant(ctx context.Context, c *api.Client, _ grantModel, m *grantModel, by change) (outcome, error) {
	input := m.input()
	grant, err := c.UpdateGrant(ctx, api.GrantChangeInput{
		Id:                   m.ID.ValueString(),
		ExpectedRevision:     atRevision(by),
		Name:                 optional.Of(input.Name),
		Mode:                 input.Mode,
		Tools:                input.Tools,
		Prompts:              input.Prompts,
		Resources:            input.Resources,
		Limits:               input.Limits,
		When:                 input.When,
		WhenArguments:        input.WhenArguments,
		NotBefore:            input.NotBefore,
		NotAfter:             input.NotAfter,
		ConfigStalenessMaxMs: input.ConfigStalenessMaxMs,
		Reason:               input.Reason,
	}, by.dryRun)
	return m.outcome(grant, by, err)
}

func removeGrant(ctx context.Context, c *api.Client, m grantModel, by change) (outcome, error) {
	reference := api.GrantReferenceInput{Id: m.ID.ValueString(), ExpectedRevision: atRevision(by)}
	grant, err := c.DeleteGrant(ctx, reference, by.dryRun)
	return m.outcome(grant, by, err)
}

// outcome fills the model from what the API answered, unless that was only tried.
func (m *grantModel) outcome(grant api.Grant, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.fill(grant.GrantFields)
	}
	return outcome{revision: grant.Revision, access: grant.AccessChanges}, err
}
