package provider

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

// attributes are values by path: a plan or a configuration.
type attributes interface {
	GetAttribute(ctx context.Context, at path.Path, target any) diag.Diagnostics
}

func stateOf(plan tfsdk.Plan) tfsdk.State { return tfsdk.State{Raw: plan.Raw, Schema: plan.Schema} }

var (
	itemPrefix   = regexp.MustCompile(`^input\.(items\[\d+\]\.)?`)
	pathToken    = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*|\[\d+\]`)
	capital      = regexp.MustCompile(`[A-Z]`)
	fromIndexOn  = regexp.MustCompile(`\[\d+\].*$`)
	reportedText = "The API does not accept this"
)

// tokens are the steps of a violation's path, in the words of the schema: tools, [2].
func (k kind[M]) tokens(violationPath string) []string {
	text := itemPrefix.ReplaceAllString(violationPath, "")
	if renamed, ok := k.violations[fromIndexOn.ReplaceAllString(text, "")]; ok {
		text = renamed
	}
	found := pathToken.FindAllString(text, -1)
	for index, token := range found {
		found[index] = capital.ReplaceAllStringFunc(token, func(letter string) string { return "_" + strings.ToLower(letter) })
	}
	return found
}

// dottedPath is the attribute that a violation is about, without indexes.
func (k kind[M]) dottedPath(violationPath string) string {
	names := slices.DeleteFunc(k.tokens(violationPath), func(token string) bool { return strings.HasPrefix(token, "[") })
	return strings.Join(names, ".")
}

func (r *managed[M, P]) reportViolation(
	ctx context.Context, diags *diag.Diagnostics, violation api.Violation, values attributes,
) {
	at, ok := r.attributePath(ctx, violation.Path, values)
	if !ok {
		diags.AddError(reportedText, fmt.Sprintf("%s: %s.", violation.Path, violation.Message))
		return
	}
	diags.AddAttributeError(at, reportedText, fmt.Sprintf("%s %s.", at, violation.Message))
}

// attributePath finds the attribute, and in a set or map the element, that a path of the API's input means: elements
// are sent in the order of their text.
func (r *managed[M, P]) attributePath(ctx context.Context, violationPath string, values attributes) (path.Path, bool) {
	steps := r.tokens(violationPath)
	if len(steps) == 0 {
		return path.Empty(), false
	}
	attribute, ok := r.schema.Attributes[steps[0]]
	if !ok {
		return path.Empty(), false
	}
	at := path.Root(steps[0])
	if len(steps) == 1 || values == nil {
		return at, true
	}
	index, err := strconv.Atoi(strings.Trim(steps[1], "[]"))
	switch attribute.(type) {
	case schema.SingleNestedAttribute:
		return at.AtName(steps[1]), true
	case schema.ListNestedAttribute:
		if err == nil && len(steps) > 2 {
			return at.AtListIndex(index).AtName(steps[2]), true
		}
	case schema.SetAttribute:
		var set types.Set
		if diags := values.GetAttribute(ctx, at, &set); err == nil && !diags.HasError() {
			if elements := stringsOf(set); index < len(elements) {
				return at.AtSetValue(types.StringValue(elements[index])), true
			}
		}
	case schema.MapAttribute:
		var labels types.Map
		if diags := values.GetAttribute(ctx, at, &labels); err == nil && !diags.HasError() {
			if keys := sortedKeys(labels); index < len(keys) {
				return at.AtMapKey(keys[index]), true
			}
		}
	}
	return at, true
}
