package provider

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

// readTimeout bounds what a data source asks.
const readTimeout = 2 * time.Minute

// source is a data source: what is configured goes in, the rest of the model comes out.
type source[M any] struct {
	name   string
	schema schema.Schema
	read   func(ctx context.Context, c *api.Client, m *M) error
	*shared
}

var _ datasource.DataSourceWithConfigure = &source[serverSourceModel]{}

func newSource[M any](made source[M]) func() datasource.DataSource {
	return func() datasource.DataSource {
		copied := made
		return &copied
	}
}

func (s *source[M]) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + s.name
}

func (s *source[M]) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = s.schema
}

func (s *source[M]) Configure(
	_ context.Context, req datasource.ConfigureRequest, resp *datasource.ConfigureResponse,
) {
	s.shared = configured(req.ProviderData, &resp.Diagnostics)
}

func (s *source[M]) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	m := new(M)
	resp.Diagnostics.Append(req.Config.Get(ctx, m)...)
	if s.shared == nil {
		resp.Diagnostics.AddError("The provider is not configured", "Its endpoint or API key is not known yet.")
	}
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err := s.read(ctx, s.client, m); err != nil {
		resp.Diagnostics.AddError(fmt.Sprintf("Cannot read the %s", strings.ReplaceAll(s.name, "_", " ")), err.Error())
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, m)...)
}

// shown are attributes that a data source tells.
func shown(attributes map[string]string) map[string]schema.Attribute {
	made := map[string]schema.Attribute{}
	for name, description := range attributes {
		made[name] = schema.StringAttribute{MarkdownDescription: description, Computed: true}
	}
	return made
}

func shownTexts(description string) schema.SetAttribute {
	return schema.SetAttribute{MarkdownDescription: description, ElementType: types.StringType, Computed: true}
}

func shownLabels(description string) schema.MapAttribute {
	return schema.MapAttribute{MarkdownDescription: description, ElementType: types.StringType, Computed: true}
}

func shownFlag(description string) schema.BoolAttribute {
	return schema.BoolAttribute{MarkdownDescription: description, Computed: true}
}

func shownNumber(description string) schema.Int64Attribute {
	return schema.Int64Attribute{MarkdownDescription: description, Computed: true}
}

// list is a data source's list of objects.
func list(description string, attributes map[string]schema.Attribute) schema.ListNestedAttribute {
	return schema.ListNestedAttribute{
		MarkdownDescription: description,
		Computed:            true,
		NestedObject:        schema.NestedAttributeObject{Attributes: attributes},
	}
}

// keyed adds id and a natural key, of which one must be given, to what is told of one object.
func keyed(natural, description string, others map[string]schema.Attribute) map[string]schema.Attribute {
	made := map[string]schema.Attribute{}
	for name, attribute := range others {
		made[name] = attribute
	}
	made["id"] = schema.StringAttribute{
		MarkdownDescription: "Id; either this or `" + natural + "`.",
		Optional:            true,
		Computed:            true,
		Validators: []validator.String{
			stringvalidator.ExactlyOneOf(path.MatchRoot("id"), path.MatchRoot(natural)),
		},
	}
	made[natural] = schema.StringAttribute{MarkdownDescription: description, Optional: true, Computed: true}
	return made
}

// idOf is the id given, or the one that the natural key names.
func idOf(
	ctx context.Context, c *api.Client, id, natural types.String,
	locate func(ctx context.Context, c *api.Client, key string) (map[string]string, error),
) (string, error) {
	if !id.IsNull() {
		return id.ValueString(), nil
	}
	found, err := locate(ctx, c, natural.ValueString())
	if err != nil {
		return "", fmt.Errorf("%q: %w", natural.ValueString(), err)
	}
	return found["id"], nil
}
