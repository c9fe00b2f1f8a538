package provider

import (
	"context"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// lower is how an enum of the API is written in a configuration.
func lower[Enum ~string](value Enum) string { return strings.ToLower(string(value)) }

// upper is the enum of the API that a configuration means.
func upper[Enum ~string](value types.String) Enum { return Enum(strings.ToUpper(value.ValueString())) }

// uppers are the enums that the elements of a set mean, sorted; never nil.
func uppers[Enum ~string](set types.Set) []Enum {
	values := []Enum{}
	for _, text := range stringsOf(set) {
		values = append(values, Enum(strings.ToUpper(text)))
	}
	return values
}

func lowered[Enum ~string](values []Enum) []string {
	var texts []string
	for _, value := range values {
		texts = append(texts, lower(value))
	}
	return texts
}

// stringsOf are the known elements of a set, sorted; never nil, so that an empty set is sent as such.
func stringsOf(set types.Set) []string {
	texts := []string{}
	for _, element := range set.Elements() {
		if text, ok := element.(types.String); ok && !text.IsNull() && !text.IsUnknown() {
			texts = append(texts, text.ValueString())
		}
	}
	sort.Strings(texts)
	return texts
}

// setOrNull is null where the API has none, as of what limits nothing.
func setOrNull(texts []string) types.Set {
	if len(texts) == 0 {
		return types.SetNull(types.StringType)
	}
	return setOf(texts)
}

func setOf(texts []string) types.Set {
	elements := []attr.Value{}
	for _, text := range texts {
		elements = append(elements, types.StringValue(text))
	}
	return types.SetValueMust(types.StringType, elements)
}

func listOf(texts []string) types.List {
	elements := []attr.Value{}
	for _, text := range texts {
		elements = append(elements, types.StringValue(text))
	}
	return types.ListValueMust(types.StringType, elements)
}

// idsOf are the ids of a list, in its order, each with its stand-in while it is not known; never nil.
func idsOf(list types.List) []string {
	ids := []string{}
	for _, element := range list.Elements() {
		if id, ok := element.(types.String); ok {
			ids = append(ids, idOr(id))
		}
	}
	return ids
}

func sortedKeys(labels types.Map) []string {
	var keys []string
	for key := range labels.Elements() {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// labelsOf are the labels of a map, sorted by key; never nil.
func labelsOf(labels types.Map) []api.LabelInput {
	inputs := []api.LabelInput{}
	for _, key := range sortedKeys(labels) {
		if value, ok := labels.Elements()[key].(types.String); ok {
			inputs = append(inputs, api.LabelInput{Key: key, Value: value.ValueString()})
		}
	}
	return inputs
}

func mapOf(labels []api.LabelFields) types.Map {
	elements := map[string]attr.Value{}
	for _, label := range labels {
		elements[label.Key] = types.StringValue(label.Value)
	}
	return types.MapValueMust(types.StringType, elements)
}

// nullable sends null for a null, which clears what was there.
func nullable(text types.String) optional.Value[string] {
	return optional.FromPointer(text.ValueStringPointer())
}

func nullableInt(number types.Int64) optional.Value[int] {
	if number.IsNull() {
		return optional.Null[int]()
	}
	return optional.Of(int(number.ValueInt64()))
}

func stringFrom(value optional.Value[string]) types.String {
	return types.StringPointerValue(value.Pointer())
}

// enumFrom is null where the API has none.
func enumFrom[Enum ~string](value optional.Value[Enum]) types.String {
	if found, ok := value.Get(); ok {
		return types.StringValue(lower(found))
	}
	return types.StringNull()
}

// enumOrNull leaves to the API what is not said, or follows from what is not known yet.
func enumOrNull[Enum ~string](value types.String) optional.Value[Enum] {
	if value.IsNull() || value.IsUnknown() {
		return optional.Null[Enum]()
	}
	return optional.Of(upper[Enum](value))
}

func intFrom(value optional.Value[int]) types.Int64 {
	if number, ok := value.Get(); ok {
		return types.Int64Value(int64(number))
	}
	return types.Int64Null()
}

// atRevision asks the API to refuse the change unless the object still has the revision.
func atRevision(by change) optional.Value[int] {
	if by.revision == 0 {
		return optional.Value[int]{}
	}
	return optional.Of(by.revision)
}

// sameInstant tells whether two texts name the same instant, to the millisecond that the API keeps.
func sameInstant(a, b string) bool {
	first, errA := time.Parse(time.RFC3339, a)
	second, errB := time.Parse(time.RFC3339, b)
	return errA == nil && errB == nil && first.Truncate(time.Millisecond).Equal(second.Truncate(time.Millisecond))
}

// instantFrom keeps the text that Terraform has where it names the same instant as the API's.
func instantFrom(has types.String, told string) types.String {
	if sameInstant(has.ValueString(), told) {
		return has
	}
	if parsed, err := time.Parse(time.RFC3339, told); err == nil {
		// Without a fraction that is zero, as people write it.
		return types.StringValue(parsed.UTC().Format(time.RFC3339Nano))
	}
	return types.StringValue(told)
}

func optionalInstantFrom(has types.String, told optional.Value[string]) types.String {
	if text, ok := told.Get(); ok {
		return instantFrom(has, text)
	}
	return types.StringNull()
}

// instant validates and plans an instant.
type instant struct{}

var (
	_ validator.String    = instant{}
	_ planmodifier.String = instant{}
)

func (instant) Description(context.Context) string {
	return "an instant in RFC 3339, such as 2027-01-31T00:00:00Z"
}
func (i instant) MarkdownDescription(ctx context.Context) string { return i.Description(ctx) }

func (i instant) ValidateString(ctx context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	if _, err := time.Parse(time.RFC3339, req.ConfigValue.ValueString()); err != nil {
		resp.Diagnostics.AddAttributeError(req.Path, "Not an instant", req.Path.String()+" must be "+i.Description(ctx)+".")
	}
}

// PlanModifyString plans no change where only the writing of the instant differs.
func (instant) PlanModifyString(
	_ context.Context, req planmodifier.StringRequest, resp *planmodifier.StringResponse,
) {
	if sameInstant(req.StateValue.ValueString(), req.PlanValue.ValueString()) {
		resp.PlanValue = req.StateValue
	}
}
