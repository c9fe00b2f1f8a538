package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type scimDirectoryModel struct {
	base
	Name   types.String `tfsdk:"name"`
	Issuer types.String `tfsdk:"issuer"`
}

var scimDirectoryKind = kind[scimDirectoryModel]{
	name: "scim_directory",
	schema: schema.Schema{
		MarkdownDescription: "A directory that provisions users and groups over SCIM 2.0. It pushes by a " +
			"`sallyport_scim_token`.",
		Attributes: map[string]schema.Attribute{
			"name": required("Unique among the directories: 1 to 128 characters."),
			"issuer": required("Issuer of its identity provider, byte for byte as in `iss` of its tokens. Another issuer makes " +
				"another directory."),
		},
	},
	fixed:   []string{"issuer"},
	natural: "name",
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.ScimDirectoryFields, error) { return c.AllScimDirectories(ctx) },
			func(directory api.ScimDirectoryFields) bool { return directory.Name == key },
			func(directory api.ScimDirectoryFields) string { return directory.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *scimDirectoryModel) (int, error) {
		answer, err := api.ReadScimDirectory(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		made, _ := m.outcome(answer.ScimDirectory, change{}, nil)
		return made.revision, nil
	},
	create: func(ctx context.Context, c *api.Client, m *scimDirectoryModel, by change) (outcome, error) {
		answer, err := api.CreateScimDirectory(ctx, c, api.CreateScimDirectoryInput{
			Name:           m.Name.ValueString(),
			Issuer:         m.Issuer.ValueString(),
			DryRun:         by.dryRun,
			IdempotencyKey: api.IdempotencyKey(),
		})
		return m.outcome(answer.CreateScimDirectory, by, err)
	},
	update: func(ctx context.Context, c *api.Client, _ scimDirectoryModel, m *scimDirectoryModel, by change) (outcome, error) {
		answer, err := api.UpdateScimDirectory(ctx, c, api.UpdateScimDirectoryInput{
			Id:               m.ID.ValueString(),
			ExpectedRevision: atRevision(by),
			Name:             optional.Of(m.Name.ValueString()),
			DryRun:           by.dryRun,
		})
		return m.outcome(answer.UpdateScimDirectory, by, err)
	},
	remove: func(ctx context.Context, c *api.Client, m scimDirectoryModel, by change) (outcome, error) {
		_, err := api.DeleteScimDirectory(ctx, c, api.DeleteScimDirectoryInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func (m *scimDirectoryModel) outcome(directory api.ScimDirectoryFields, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.ID = types.StringValue(directory.Id)
		m.Name = types.StringValue(directory.Name)
		m.Issuer = types.StringValue(directory.Issuer)
	}
	return outcome{revision: directory.Revision}, err
}
