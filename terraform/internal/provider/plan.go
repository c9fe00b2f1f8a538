package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

// standInID takes the place of an id that is not known before the apply: the API checks all the rest.
const standInID = "00000000-0000-0000-0000-000000000000"

// namesShownMax bounds how many tools one warning names.
const namesShownMax = 25

// ModifyPlan tries each planned change with the API's dry run: what it would refuse is refused now, on the attribute
// that is wrong, and whose access it would change is told as a warning.
func (r *managed[M, P]) ModifyPlan(
	ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse,
) {
	if req.Plan.Raw.IsNull() {
		r.planRemoval(ctx, req, resp)
		return
	}
	if !req.State.Raw.IsNull() {
		r.rememberID(ctx, req)
	}
	unknown := unknownPaths(req.Config.Raw)
	if !r.canStandIn(unknown) {
		r.planReplacement(ctx, req, resp)
		return
	}
	m, config := new(M), new(M)
	resp.Diagnostics.Append(req.Plan.Get(ctx, m)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, config)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if r.complete != nil {
		r.complete(*config, m)
		resp.Diagnostics.Append(resp.Plan.Set(ctx, m)...)
	}
	isReplaced := r.planReplacement(ctx, req, resp)
	isSame := !req.State.Raw.IsNull() && resp.Plan.Raw.Equal(req.State.Raw)
	if isReplaced || isSame || r.shared == nil || !r.triesChanges {
		return
	}
	if r.carry != nil {
		r.carry(*config, m)
	}
	r.try(ctx, req, resp, m, unknown)
}

func (r *managed[M, P]) try(
	ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse, m *M, unknown []string,
) {
	ctx, cancel := context.WithTimeout(ctx, timeoutDefault)
	defer cancel()
	var before *M
	var told outcome
	var err error
	if req.State.Raw.IsNull() {
		told, err = r.create(ctx, r.client, m, change{dryRun: true})
	} else {
		before = new(M)
		resp.Diagnostics.Append(req.State.Get(ctx, before)...)
		if resp.Diagnostics.HasError() || r.update == nil {
			return
		}
		told, err = r.update(ctx, r.client, *before, m, change{dryRun: true})
	}
	if err != nil {
		r.reportTried(ctx, req, &resp.Diagnostics, err, unknown)
		return
	}
	if r.review != nil && len(unknown) == 0 {
		notes, err := r.review(ctx, r.client, before, m)
		if err != nil {
			r.report(ctx, &resp.Diagnostics, "review", err, nil)
		}
		told.notes = append(told.notes, notes...)
	}
	tell(&resp.Diagnostics, told)
}

// planRemoval tells what would be lost. What the API would refuse now may be possible once other objects are gone, so
// that is a warning.
func (r *managed[M, P]) planRemoval(
	ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse,
) {
	if req.State.Raw.IsNull() || r.shared == nil || !r.triesChanges {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeoutDefault)
	defer cancel()
	m := new(M)
	resp.Diagnostics.Append(req.State.Get(ctx, m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	r.rememberID(ctx, req)
	told, err := r.remove(ctx, r.client, *m, change{dryRun: true})
	switch {
	case api.IsNotFound(err):
	case api.IsForbidden(err):
		notTried(&resp.Diagnostics)
	case err != nil:
		resp.Diagnostics.AddWarning(fmt.Sprintf("The API would not delete this %s as things stand", r.words()), err.Error())
	default:
		if r.review != nil {
			if notes, err := r.review(ctx, r.client, m, nil); err == nil {
				told.notes = append(told.notes, notes...)
			}
		}
		tell(&resp.Diagnostics, told)
	}
}

// planReplacement asks for another object where a fixed attribute changes.
func (r *managed[M, P]) planReplacement(
	ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse,
) bool {
	if req.State.Raw.IsNull() {
		return false
	}
	isReplaced := false
	for _, name := range slices.Concat(r.fixed, r.permanent) {
		was, is := attributeAt(ctx, req.State, name), attributeAt(ctx, stateOf(resp.Plan), name)
		comesOrGoes := was != nil && is != nil && was.IsNull() != is.IsNull()
		if was != nil && is != nil && !was.Equal(is) && (comesOrGoes || slices.Contains(r.fixed, name)) {
			resp.RequiresReplace.Append(path.Root(name))
			isReplaced = true
		}
	}
	return isReplaced
}

func (r *managed[M, P]) rememberID(ctx context.Context, req resource.ModifyPlanRequest) {
	var id types.String
	if diags := req.State.GetAttribute(ctx, path.Root("id"), &id); !diags.HasError() && r.shared != nil {
		r.managedIDs.Store(id.ValueString(), true)
	}
}

// reportTried reports why a planned change would be refused; not what is wrong only because a value is not known yet,
// nor that a name is taken by an object that Terraform manages too and may be about to rename or delete.
func (r *managed[M, P]) reportTried(
	ctx context.Context, req resource.ModifyPlanRequest, diags *diag.Diagnostics, err error, unknown []string,
) {
	if api.IsForbidden(err) {
		notTried(diags)
		return
	}
	if len(unknown) > 0 && api.IsNotFound(err) {
		return
	}
	violations := api.ViolationsOf(err)
	if len(violations) == 0 {
		r.report(ctx, diags, "plan", err, req.Plan)
		return
	}
	remaining := slices.DeleteFunc(slices.Clone(violations), func(violation api.Violation) bool {
		dotted := r.dottedPath(violation.Path)
		return slices.ContainsFunc(unknown, func(name string) bool { return strings.ReplaceAll(name, ".*", "") == dotted }) ||
			(r.natural != "" && dotted == r.natural && r.isTakenByManaged(ctx, req))
	})
	if len(remaining) > 0 {
		r.report(ctx, diags, "plan", &api.Error{Code: "INVALID_INPUT", Violations: remaining}, req.Plan)
	}
}

func (r *managed[M, P]) isTakenByManaged(ctx context.Context, req resource.ModifyPlanRequest) bool {
	var key types.String
	if diags := req.Plan.GetAttribute(ctx, path.Root(r.natural), &key); diags.HasError() {
		return false
	}
	found, err := r.locate(ctx, r.client, key.ValueString())
	if err != nil {
		return false
	}
	_, isManaged := r.managedIDs.Load(found["id"])
	return isManaged
}

// canStandIn tells whether a change can be tried although some values are not known.
func (r *managed[M, P]) canStandIn(unknown []string) bool {
	return !slices.ContainsFunc(unknown, func(name string) bool { return !slices.Contains(r.standIns, name) })
}

// unknownPaths are the attributes whose value depends on something that is not there yet, as dotted paths.
func unknownPaths(config tftypes.Value) []string {
	var found []string
	_ = tftypes.Walk(config, func(at *tftypes.AttributePath, value tftypes.Value) (bool, error) {
		if value.IsKnown() {
			return true, nil
		}
		var names []string
		for _, step := range at.Steps() {
			if name, ok := step.(tftypes.AttributeName); ok {
				names = append(names, string(name))
			} else {
				names = append(names, "*")
			}
		}
		found = append(found, strings.Join(names, "."))
		return false, nil
	})
	return found
}

// idOr is the id, or its stand-in while it is not known.
func idOr(id types.String) string {
	if id.IsUnknown() {
		return standInID
	}
	return id.ValueString()
}

func notTried(diags *diag.Diagnostics) {
	diags.AddWarning(
		"The plan was not tried: the API key may not make these changes",
		"The API tells what it would refuse, and whose access would change, to keys alone that may make the change. "+
			"The plan is right all the same, but the apply may be refused.",
	)
}

// tell makes a warning of each difference. Terraform folds warnings with the same summary, so what matters is in it.
func tell(diags *diag.Diagnostics, told outcome) {
	for _, difference := range told.access {
		diags.AddWarning(difference.Summary, describeDifference(difference))
	}
	for _, note := range told.notes {
		diags.AddWarning(note.summary, note.detail)
	}
}

func describeDifference(difference api.AccessDifference) string {
	var lines []string
	for _, part := range []struct {
		word  string
		items []api.AccessItemFields
	}{{"Gains", difference.Gained}, {"Loses", difference.Lost}, {"Keeps on other terms", difference.Changed}} {
		if len(part.items) > 0 {
			lines = append(lines, fmt.Sprintf("%s on %s: %s.", part.word, difference.Slug, listItems(part.items)))
		}
	}
	return strings.Join(lines, "\n")
}

func listItems(items []api.AccessItemFields) string {
	var names []string
	for _, item := range items[:min(len(items), namesShownMax)] {
		name := item.Name
		if item.Kind != api.DefinitionKindTool {
			name = fmt.Sprintf("%s %s", strings.ReplaceAll(lower(item.Kind), "_", " "), name)
		}
		var terms []string
		if item.Effect == api.EffectRequireApproval {
			terms = append(terms, "each call needs an approval")
		}
		if item.IsConditional {
			terms = append(terms, "on a condition")
		}
		if len(terms) > 0 {
			name += " (" + strings.Join(terms, ", ") + ")"
		}
		names = append(names, name)
	}
	if more := len(items) - namesShownMax; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// conflict is a change that was not made, as the object is no longer what the plan was made from.
type conflict struct {
	changed []string
	cause   error
}

func (c *conflict) Error() string { return c.cause.Error() }
func (c *conflict) Unwrap() error { return c.cause }

// report makes diagnostics of an error, each violation on its attribute.
func (r *managed[M, P]) report(
	ctx context.Context, diags *diag.Diagnostics, doing string, err error, values attributes,
) {
	var conflicting *conflict
	violations := api.ViolationsOf(err)
	switch {
	case errors.As(err, &conflicting) && len(conflicting.changed) > 0:
		diags.AddError(
			fmt.Sprintf("Conflict: the %s was changed by someone else since the plan was made", r.words()),
			strings.Join(conflicting.changed, "\n")+
				fmt.Sprintf("\nThis %s was not changed. Plan again to see the difference, and apply that.", r.words()),
		)
	case api.IsConflict(err):
		diags.AddError(
			fmt.Sprintf("Conflict: someone else changed the %s, or took its name, at the same moment", r.words()),
			fmt.Sprintf("This %s was not changed. Plan again, and apply that. The API says: %s", r.words(), err),
		)
	case len(violations) > 0:
		for _, violation := range violations {
			r.reportViolation(ctx, diags, violation, values)
		}
	case errors.Is(err, context.DeadlineExceeded):
		diags.AddError(fmt.Sprintf("Cannot %s the %s in time", doing, r.words()), late(doing, err))
	default:
		diags.AddError(fmt.Sprintf("Cannot %s the %s", doing, r.words()), err.Error())
	}
}

// late says what is known after a time ran out: a request that was given up may have been carried out all the same.
func late(doing string, err error) string {
	text := err.Error() + "\nOne request has a minute, and the whole operation as long as the timeouts of the resource say."
	if doing == "create" || doing == "update" || doing == "delete" {
		text += " Whether the change was made is not known: plan again to see."
	}
	return text
}

func (r *managed[M, P]) words() string { return strings.ReplaceAll(r.name, "_", " ") }
