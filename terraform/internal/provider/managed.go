package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

// timeoutDefault bounds an operation whose resource says nothing else.
const timeoutDefault = 5 * time.Minute

// revisionKey is where private state keeps the revision: it is no attribute, as changes elsewhere raise it too.
const revisionKey = "revision"

// conflictRetriesMax bounds how often a change is repeated over a revision that others raised without touching what
// Terraform manages, such as the members of a group.
const conflictRetriesMax = 5

// shared is what all resources and data sources of a configured provider have.
type shared struct {
	client *api.Client
	// triesChanges is false where plans are made without asking the API about them.
	triesChanges bool
	// managedIDs are the objects in Terraform's state, as far as this run has come across them.
	managedIDs *sync.Map
}

// base is what every managed resource has.
type base struct {
	ID       types.String   `tfsdk:"id"`
	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

func (b *base) common() *base { return b }

// modelOf is a pointer to a model that embeds base.
type modelOf[M any] interface {
	*M
	common() *base
}

// change is how something is changed: in earnest or not, and over which revision; 0 for any.
type change struct {
	dryRun   bool
	revision int
}

// outcome is what the API said of a change.
type outcome struct {
	revision int
	// access is whose access the change would touch; of a dry run.
	access []api.AccessDifference
	// notes tell a reviewer of the plan what a change comes to, other than by access; each is a warning.
	notes []note
}

type note struct{ summary, detail string }

// kind is one kind of object of the API. Its functions get and keep a model with all attributes; managed makes a
// resource of them.
type kind[M any] struct {
	// name is the type without the provider's prefix.
	name   string
	schema schema.Schema
	// fixed are the attributes that need another object when they change.
	fixed []string
	// permanent are the attributes that need another object when they come or go.
	permanent []string
	// natural is the attribute that no two objects share, if there is one.
	natural string
	// standIns are the attributes, as dotted paths, whose value need not be known when a change is tried.
	standIns []string
	// violations maps paths of the API's input that are named otherwise here.
	violations map[string]string

	// locate finds the identifying attributes of an object to import by its natural key.
	locate func(ctx context.Context, c *api.Client, key string) (map[string]string, error)
	read   func(ctx context.Context, c *api.Client, m *M) (int, error)
	// watch tells what of an unchanged object wants attention; nil where there is nothing to tell.
	watch func(ctx context.Context, c *api.Client, m M) ([]note, error)
	// complete sets planned values that follow from others; nil where there are none.
	complete func(config M, m *M)
	// review tells what a change comes to that is no dry run's matter; nil where there is nothing to tell.
	review func(ctx context.Context, c *api.Client, before, after *M) ([]note, error)
	create func(ctx context.Context, c *api.Client, m *M, by change) (outcome, error)
	// update is nil where every attribute is fixed.
	update func(ctx context.Context, c *api.Client, before M, m *M, by change) (outcome, error)
	remove func(ctx context.Context, c *api.Client, m M, by change) (outcome, error)
	// carry copies write-only attributes from the configuration, which alone has them; nil where there are none.
	carry func(config M, m *M)
}

// managed is the resource of a kind.
type managed[M any, P modelOf[M]] struct {
	kind[M]
	*shared
}

var (
	_ resource.ResourceWithConfigure   = &managed[grantModel, *grantModel]{}
	_ resource.ResourceWithModifyPlan  = &managed[grantModel, *grantModel]{}
	_ resource.ResourceWithImportState = &managed[grantModel, *grantModel]{}
)

func newManaged[M any, P modelOf[M]](k kind[M]) func() resource.Resource {
	return func() resource.Resource { return &managed[M, P]{kind: k} }
}

func (r *managed[M, P]) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + r.name
}

func (r *managed[M, P]) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = r.schema
	resp.Schema.Attributes = map[string]schema.Attribute{
		"id": schema.StringAttribute{
			MarkdownDescription: "Unique and permanent.",
			Computed:            true,
			PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
		},
		"timeouts": timeouts.Attributes(ctx, timeouts.Opts{Create: true, Read: true, Update: true, Delete: true}),
	}
	for name, attribute := range r.schema.Attributes {
		resp.Schema.Attributes[name] = attribute
	}
}

func (r *managed[M, P]) Configure(_ context.Context, req resource.ConfigureRequest, resp *resource.ConfigureResponse) {
	r.shared = configured(req.ProviderData, &resp.Diagnostics)
}

func (r *managed[M, P]) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	m, config := new(M), new(M)
	resp.Diagnostics.Append(req.Plan.Get(ctx, m)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, config)...)
	ctx, cancel := within(ctx, P(m).common().Timeouts.Create, &resp.Diagnostics)
	defer cancel()
	if resp.Diagnostics.HasError() || r.isUnconfigured(&resp.Diagnostics) {
		return
	}
	if r.carry != nil {
		r.carry(*config, m)
	}
	P(m).common().ID = types.StringNull()
	made, err := r.create(ctx, r.client, m, change{})
	// What was made is kept in the state even where a later step failed, so that it is not forgotten.
	if !P(m).common().ID.IsNull() {
		if r.carry != nil {
			r.carry(*new(M), m)
		}
		resp.Diagnostics.Append(resp.State.Set(ctx, m)...)
		resp.Diagnostics.Append(setRevision(ctx, resp.Private, made.revision)...)
		r.managedIDs.Store(P(m).common().ID.ValueString(), true)
	}
	if err != nil {
		r.report(ctx, &resp.Diagnostics, "create", err, req.Plan)
	}
}

func (r *managed[M, P]) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	m := new(M)
	resp.Diagnostics.Append(req.State.Get(ctx, m)...)
	ctx, cancel := within(ctx, P(m).common().Timeouts.Read, &resp.Diagnostics)
	defer cancel()
	if resp.Diagnostics.HasError() || r.isUnconfigured(&resp.Diagnostics) {
		return
	}
	revision, err := r.read(ctx, r.client, m)
	if api.IsNotFound(err) {
		resp.State.RemoveResource(ctx)
		return
	}
	if err != nil {
		r.report(ctx, &resp.Diagnostics, "read", err, nil)
		return
	}
	r.managedIDs.Store(P(m).common().ID.ValueString(), true)
	resp.Diagnostics.Append(resp.State.Set(ctx, m)...)
	resp.Diagnostics.Append(setRevision(ctx, resp.Private, revision)...)
	if r.watch != nil {
		notes, err := r.watch(ctx, r.client, *m)
		if err != nil {
			r.report(ctx, &resp.Diagnostics, "read", err, nil)
		}
		tell(&resp.Diagnostics, outcome{notes: notes})
	}
}

func (r *managed[M, P]) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	before, m, config := new(M), new(M), new(M)
	resp.Diagnostics.Append(req.State.Get(ctx, before)...)
	resp.Diagnostics.Append(req.Plan.Get(ctx, m)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, config)...)
	revision := revisionOf(ctx, req.Private, &resp.Diagnostics)
	ctx, cancel := within(ctx, P(m).common().Timeouts.Update, &resp.Diagnostics)
	defer cancel()
	if resp.Diagnostics.HasError() || r.isUnconfigured(&resp.Diagnostics) {
		return
	}
	// Only the timeouts differ where the kind has nothing that can be changed in place.
	if r.update == nil {
		resp.Diagnostics.Append(resp.State.Set(ctx, m)...)
		return
	}
	if r.carry != nil {
		r.carry(*config, m)
	}
	var made outcome
	err := r.overConflicts(ctx, req.State, revision, func(revision int) (err error) {
		made, err = r.update(ctx, r.client, *before, m, change{revision: revision})
		return err
	})
	if err != nil {
		r.report(ctx, &resp.Diagnostics, "update", err, req.Plan)
		return
	}
	if r.carry != nil {
		r.carry(*new(M), m)
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, m)...)
	resp.Diagnostics.Append(setRevision(ctx, resp.Private, made.revision)...)
}

func (r *managed[M, P]) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	m := new(M)
	resp.Diagnostics.Append(req.State.Get(ctx, m)...)
	revision := revisionOf(ctx, req.Private, &resp.Diagnostics)
	ctx, cancel := within(ctx, P(m).common().Timeouts.Delete, &resp.Diagnostics)
	defer cancel()
	if resp.Diagnostics.HasError() || r.isUnconfigured(&resp.Diagnostics) {
		return
	}
	err := r.overConflicts(ctx, req.State, revision, func(revision int) error {
		_, err := r.remove(ctx, r.client, *m, change{revision: revision})
		return err
	})
	if err != nil && !api.IsNotFound(err) {
		r.report(ctx, &resp.Diagnostics, "delete", err, nil)
	}
}

// ImportState takes an id, or the natural key that the kind's page names.
func (r *managed[M, P]) ImportState(
	ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse,
) {
	if r.isUnconfigured(&resp.Diagnostics) {
		return
	}
	found, err := r.locate(ctx, r.client, req.ID)
	if err != nil {
		resp.Diagnostics.AddError(fmt.Sprintf("Cannot import %s %q", r.words(), req.ID), err.Error())
		return
	}
	for name, value := range found {
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(name), value)...)
	}
}

func (r *managed[M, P]) isUnconfigured(diags *diag.Diagnostics) bool {
	if r.shared != nil {
		return false
	}
	diags.AddError("The provider is not configured", "Its endpoint or API key is not known yet; apply what makes it first.")
	return true
}

// overConflicts makes a change over the revision that the plan was made from. Where others raised the revision since,
// without touching anything that Terraform manages of the object, it is made over the newer one.
func (r *managed[M, P]) overConflicts(
	ctx context.Context, prior tfsdk.State, revision int, attempt func(revision int) error,
) error {
	for range conflictRetriesMax {
		err := attempt(revision)
		if !api.IsConflict(err) {
			return err
		}
		current := new(M)
		if diags := prior.Get(ctx, current); diags.HasError() {
			return err
		}
		newer, readErr := r.read(ctx, r.client, current)
		if readErr != nil {
			return readErr
		}
		if changed := r.changed(ctx, prior, current); len(changed) > 0 || newer == revision {
			return &conflict{changed: changed, cause: err}
		}
		revision = newer
	}
	return &conflict{cause: fmt.Errorf("it is being changed all the time")}
}

// changed names what of an object is other than the state has it, and how it is now; what only the API sets is no
// reason for a conflict.
func (r *managed[M, P]) changed(ctx context.Context, prior tfsdk.State, current *M) []string {
	now := tfsdk.State{Schema: prior.Schema, Raw: prior.Raw.Copy()}
	if diags := now.Set(ctx, current); diags.HasError() {
		return []string{"it cannot be compared"}
	}
	var changed []string
	for name, attribute := range prior.Schema.GetAttributes() {
		if attribute.IsComputed() && !attribute.IsOptional() {
			continue
		}
		was, is := attributeAt(ctx, prior, name), attributeAt(ctx, now, name)
		if was != nil && is != nil && !was.Equal(is) {
			changed = append(changed, fmt.Sprintf("%s was %s and is now %s", name, was, is))
		}
	}
	slices.Sort(changed)
	return changed
}

// attributeAt is nil where the object or the attribute is null or cannot be read.
func attributeAt(ctx context.Context, state tfsdk.State, name string) attr.Value {
	var members map[string]tftypes.Value
	if err := state.Raw.As(&members); err != nil || members == nil {
		return nil
	}
	attribute, ok := state.Schema.GetAttributes()[name]
	if !ok {
		return nil
	}
	value, err := attribute.GetType().ValueFromTerraform(ctx, members[name])
	if err != nil {
		return nil
	}
	return value
}

func within(
	ctx context.Context,
	timeout func(context.Context, time.Duration) (time.Duration, diag.Diagnostics),
	diags *diag.Diagnostics,
) (context.Context, context.CancelFunc) {
	limit, found := timeout(ctx, timeoutDefault)
	diags.Append(found...)
	return context.WithTimeout(ctx, limit)
}

type privateWriter interface {
	SetKey(ctx context.Context, key string, value []byte) diag.Diagnostics
}

type privateReader interface {
	GetKey(ctx context.Context, key string) ([]byte, diag.Diagnostics)
}

func setRevision(ctx context.Context, private privateWriter, revision int) diag.Diagnostics {
	encoded, _ := json.Marshal(revision)
	return private.SetKey(ctx, revisionKey, encoded)
}

// revisionOf is 0 where none was kept.
func revisionOf(ctx context.Context, private privateReader, diags *diag.Diagnostics) int {
	encoded, found := private.GetKey(ctx, revisionKey)
	diags.Append(found...)
	revision := 0
	if len(encoded) > 0 {
		if err := json.Unmarshal(encoded, &revision); err != nil {
			diags.AddError("The private state is damaged", err.Error())
		}
	}
	return revision
}
