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
	capitals     = regexp.MustCompile(`[A-Z]+`)
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
		found[index] = capitals.ReplaceAllStringFunc(token, func(letters string) string { return "_" + strings.ToLower(letters) })
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
	found := r.locateViolation(ctx, violation.Path, values)
	if len(found.at.Steps()) == 0 {
		diags.AddError(reportedText, fmt.Sprintf("%s: %s.", violation.Path, violation.Message))
		return
	}
	diags.AddAttributeError(found.at, reportedText, fmt.Sprintf("%s %s.", found, violation.Message))
}

// place is where a violation is. Terraform finds no line of what is within a set, so that is said in words.
type place struct {
	at path.Path
	// element of the set at the path, if it is about one.
	element string
	// member of that element, if it is about one.
	member string
}

func (p place) String() string {
	text := p.at.String()
	if p.element == "" {
		return text
	}
	if p.member == "" {
		return text + ": " + p.element
	}
	return text + ": " + p.member + " of " + p.element
}

// locateViolation finds the attribute, and in a list, set or map the element, that a path of the API's input means.
func (r *managed[M, P]) locateViolation(ctx context.Context, violationPath string, values attributes) place {
	return placeBelow(ctx, path.Empty(), r.schema.Attributes, r.tokens(violationPath), values)
}

// placeBelow goes down as far as the steps name what there is.
func placeBelow(
	ctx context.Context, at path.Path, among map[string]schema.Attribute, steps []string, values attributes,
) place {
	if len(steps) == 0 {
		return place{at: at}
	}
	attribute, ok := among[steps[0]]
	if !ok {
		return place{at: at}
	}
	at, steps = at.AtName(steps[0]), steps[1:]
	if single, ok := attribute.(schema.SingleNestedAttribute); ok {
		return placeBelow(ctx, at, single.Attributes, steps, values)
	}
	if len(steps) == 0 || values == nil {
		return place{at: at}
	}
	index, err := strconv.Atoi(strings.Trim(steps[0], "[]"))
	if err != nil {
		return place{at: at}
	}
	switch nested := attribute.(type) {
	case schema.ListNestedAttribute:
		return placeBelow(ctx, at.AtListIndex(index), nested.NestedObject.Attributes, steps[1:], values)
	case schema.ListAttribute:
		return place{at: at.AtListIndex(index)}
	case schema.SetNestedAttribute, schema.SetAttribute:
		return place{at: at, element: elementAt(ctx, at, index, values), member: strings.Join(steps[1:], ".")}
	case schema.MapAttribute:
		var whole types.Map
		if diags := values.GetAttribute(ctx, at, &whole); !diags.HasError() && index < len(whole.Elements()) {
			return place{at: at.AtMapKey(sortedKeys(whole)[index])}
		}
	}
	return place{at: at}
}

// elementAt is the element of a set that was sent at an index: objects are sent in their order, texts sorted.
func elementAt(ctx context.Context, at path.Path, index int, values attributes) string {
	var whole types.Set
	if diags := values.GetAttribute(ctx, at, &whole); diags.HasError() || index >= len(whole.Elements()) {
		return ""
	}
	if texts := stringsOf(whole); index < len(texts) {
		return strconv.Quote(texts[index])
	}
	return whole.Elements()[index].String()
}
