package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type toolApprovalModel struct {
	base
	ServerID types.String `tfsdk:"server_id"`
	Kind     types.String `tfsdk:"kind"`
	Name     types.String `tfsdk:"name"`
	Digests  types.Set    `tfsdk:"digests"`
}

var toolApprovalKind = kind[toolApprovalModel]{
	name: "tool_approval",
	schema: schema.Schema{
		MarkdownDescription: "That a tool, prompt or resource of a server, its instructions, a page of MCP Apps, or what it says that it is, may be served in exactly the wordings that were " +
			"reviewed. Nothing else is approved by mistake: where the server sends another wording, the plan says so and " +
			"refuses until the digests are changed. Destroying it takes the definition out of service (quarantine).",
		Attributes: map[string]schema.Attribute{
			"server_id": required("Id of the server. Another one makes another approval."),
			"kind": defaulted("`tool`, `prompt`, `resource`, `resource_template`, `instructions`, `view` or `server_info`; `tool` if absent. Another one makes "+
				"another approval.", "tool", oneOf(lowered(api.AllDefinitionKind)...)),
			"name": required("Name of the tool or prompt, URI of the resource, its template or the page, `instructions` of those, `serverInfo` of what it is. Another one makes another approval."),
			"digests": schema.SetAttribute{
				MarkdownDescription: "Digests of the reviewed wordings, as `sha256:<hex>`: several where the server words it differently " +
					"for older revisions of the protocol. The data source `sallyport_server_tools` lists what the server sends.",
				ElementType: types.StringType,
				Required:    true,
				Validators: []validator.Set{
					setvalidator.SizeBetween(1, 16),
					setvalidator.ValueStringsAre(stringvalidator.RegexMatches(digestPattern, "must be sha256: and 64 hexadecimal digits")),
				},
			},
		},
	},
	fixed:      []string{"server_id", "kind", "name"},
	violations: map[string]string{"id": "server_id", "definitionIds": "digests"},
	locate:     locateDefinition,
	read: func(ctx context.Context, c *api.Client, m *toolApprovalModel) (int, error) {
		_, definition, err := findDefinition(ctx, c, m.ServerID, m.Kind, m.Name)
		if err != nil {
			return 0, err
		}
		if definition == nil {
			return 0, api.NotFound()
		}
		m.fill(*definition)
		return 0, nil
	},
	watch: func(ctx context.Context, c *api.Client, m toolApprovalModel) ([]note, error) {
		server, definition, err := findDefinition(ctx, c, m.ServerID, m.Kind, m.Name)
		if err != nil || definition == nil {
			return nil, err
		}
		return driftNotes(server, *definition), nil
	},
	create: approveDefinition,
	update: func(ctx context.Context, c *api.Client, _ toolApprovalModel, m *toolApprovalModel, by change) (outcome, error) {
		return approveDefinition(ctx, c, m, by)
	},
	remove: func(ctx context.Context, c *api.Client, m toolApprovalModel, by change) (outcome, error) {
		_, definition, err := findDefinition(ctx, c, m.ServerID, m.Kind, m.Name)
		if err != nil || definition == nil {
			return outcome{}, err
		}
		answer, err := api.QuarantineDefinitions(ctx, c, api.QuarantineDefinitionsInput{
			Id: m.ServerID.ValueString(), DefinitionIds: []string{definition.Id}, DryRun: by.dryRun,
		})
		if err != nil || len(answer.QuarantineDefinitions) == 0 {
			return outcome{}, err
		}
		return outcome{access: answer.QuarantineDefinitions[0].AccessChanges}, nil
	},
}

// fill shows what may be served; of a definition that may not, nothing.
func (m *toolApprovalModel) fill(definition api.DefinitionFields) {
	m.ID = types.StringValue(definitionKey(m.ServerID, m.Kind, m.Name))
	m.Digests = setOf(nil)
	if definition.State == api.DefinitionStateApproved || definition.State == api.DefinitionStateDrifted {
		m.Digests = setOf(definition.ApprovedDigests)
	}
}

func definitionKey(serverID, kind, name types.String) string {
	return serverID.ValueString() + "/" + kind.ValueString() + "/" + name.ValueString()
}

// locateDefinition takes SERVER/KIND/NAME, or SERVER/NAME of a tool; the server by id or slug.
func locateDefinition(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	server, rest, ok := strings.Cut(key, "/")
	if !ok {
		return nil, fmt.Errorf("import by SERVER/TOOL or SERVER/KIND/NAME, the server by id or slug")
	}
	kind, name := "tool", rest
	if first, more, hasKind := strings.Cut(rest, "/"); hasKind && slices.Contains(lowered(api.AllDefinitionKind), first) {
		kind, name = first, more
	}
	found, err := serverKind.locate(ctx, c, server)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", server, err)
	}
	return map[string]string{
		"id":        found["id"] + "/" + kind + "/" + name,
		"server_id": found["id"],
		"kind":      kind,
		"name":      name,
	}, nil
}

// findDefinition returns no definition where the server has never defined it.
func findDefinition(
	ctx context.Context, c *api.Client, serverID, kind, name types.String,
) (api.ServerFields, *api.DefinitionFields, error) {
	answer, err := api.FindDefinition(
		ctx, c, serverID.ValueString(), upper[api.DefinitionKind](kind), name.ValueString())
	if err != nil || len(answer.Server.Definitions.Edges) == 0 {
		return answer.Server.ServerFields, nil, err
	}
	return answer.Server.ServerFields, &answer.Server.Definitions.Edges[0].Node, nil
}

// awaitDefinition waits for the discovery of a server that was just registered; a dry run does not wait.
func awaitDefinition(
	ctx context.Context, c *api.Client, serverID, kind, name types.String, by change,
) (api.ServerFields, api.DefinitionFields, error) {
	for {
		server, definition, err := findDefinition(ctx, c, serverID, kind, name)
		if err != nil {
			return server, api.DefinitionFields{}, err
		}
		if definition != nil {
			return server, *definition, nil
		}
		_, isDiscovered := server.DiscoveredAt.Get()
		_, hasFailed := server.DiscoveryProblem.Get()
		if isDiscovered || hasFailed || by.dryRun {
			message := fmt.Sprintf("names no %s that the server %s defines", strings.ReplaceAll(kind.ValueString(), "_", " "), server.Slug)
			return server, api.DefinitionFields{}, invalid("input.name", message)
		}
		select {
		case <-ctx.Done():
			return server, api.DefinitionFields{}, fmt.Errorf("the server %s was not discovered in time: %w", server.Slug, ctx.Err())
		case <-time.After(discoveryPollInterval):
		}
	}
}

func invalid(path, message string) error {
	return &api.Error{Code: "INVALID_INPUT", Message: message, Violations: []api.Violation{{Path: path, Message: message}}}
}

// approveDefinition approves what the server sends now if, and only if, that is what was reviewed: the revision holds
// the API to what the comparison saw.
func approveDefinition(ctx context.Context, c *api.Client, m *toolApprovalModel, by change) (outcome, error) {
	for range conflictRetriesMax {
		server, definition, err := awaitDefinition(ctx, c, m.ServerID, m.Kind, m.Name, by)
		if err != nil {
			return outcome{}, err
		}
		reviewed := stringsOf(m.Digests)
		isServed := definition.State == api.DefinitionStateApproved || definition.State == api.DefinitionStateDrifted
		if isServed && slices.Equal(reviewed, sorted(definition.ApprovedDigests)) {
			m.fill(definition)
			return outcome{}, nil
		}
		if _, isRemoved := definition.RemovedAt.Get(); isRemoved {
			return outcome{}, invalid("input.name", fmt.Sprintf("names what the server %s does not define any more", server.Slug))
		}
		if !slices.Equal(reviewed, sent(definition)) {
			return outcome{}, invalid("input.digests", fmt.Sprintf(
				"are not what the server %s sends, which is %s: review that, and set it here",
				server.Slug, strings.Join(sent(definition), ", ")))
		}
		answer, err := api.ApproveDefinitions(ctx, c, api.ApproveDefinitionsInput{
			Id:               m.ServerID.ValueString(),
			ExpectedRevision: optional.Of(server.Revision),
			DefinitionIds:    []string{definition.Id},
			Digests:          reviewed,
			DryRun:           by.dryRun,
		})
		if api.IsConflict(err) {
			continue
		}
		if err != nil || len(answer.ApproveDefinitions) == 0 {
			return outcome{}, err
		}
		approved := answer.ApproveDefinitions[0]
		if !by.dryRun {
			m.fill(approved.DefinitionFields)
		}
		return outcome{access: approved.AccessChanges}, nil
	}
	return outcome{}, fmt.Errorf("the definitions of the server are being changed all the time")
}

func driftNotes(server api.ServerFields, definition api.DefinitionFields) []note {
	if definition.State != api.DefinitionStateDrifted {
		return nil
	}
	return []note{{
		summary: fmt.Sprintf("%s of %s has drifted from what was reviewed", definition.Name, server.Slug),
		detail: fmt.Sprintf("The server sends %s now. That is not served until it is approved: review it, and set its "+
			"digest here.", strings.Join(sent(definition), ", ")),
	}}
}

// sent returns every wording that the server sends, whoever saw it.
func sent(definition api.DefinitionFields) []string {
	all := sorted(append(slices.Clone(definition.Digests), definition.ReportedDigests...))
	return slices.Compact(all)
}

func sorted(texts []string) []string {
	copied := slices.Clone(texts)
	slices.Sort(copied)
	return copied
}
