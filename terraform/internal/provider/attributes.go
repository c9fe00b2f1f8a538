package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/mapdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// The attributes that most kinds have, by what they are.

func required(description string, validators ...validator.String) schema.StringAttribute {
	return schema.StringAttribute{MarkdownDescription: description, Required: true, Validators: validators}
}

func optionalText(description string) schema.StringAttribute {
	return schema.StringAttribute{MarkdownDescription: description, Optional: true}
}

// defaulted is the default where the configuration says nothing, so that taking a value out of it takes it back.
func defaulted(description, value string, validators ...validator.String) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: description,
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString(value),
		Validators:          validators,
	}
}

// defaultedNumber is the same for numbers; the API says which are right.
func defaultedNumber(description string, value int64) schema.Int64Attribute {
	return schema.Int64Attribute{
		MarkdownDescription: description, Optional: true, Computed: true, Default: int64default.StaticInt64(value),
	}
}

// boundedNumber is one whose bounds are checked before the API is asked.
func boundedNumber(description string, value, least, most int64) schema.Int64Attribute {
	attribute := defaultedNumber(description, value)
	attribute.Validators = []validator.Int64{int64validator.Between(least, most)}
	return attribute
}

// flag is optional; the description says what holds if it is absent.
func flag(description string, value bool) schema.BoolAttribute {
	return schema.BoolAttribute{
		MarkdownDescription: description, Optional: true, Computed: true, Default: booldefault.StaticBool(value),
	}
}

// told is set by the API and does not change while the object lives.
func told(description string) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: description,
		Computed:            true,
		PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
	}
}

func requiredInstant(description string) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: description,
		Required:            true,
		Validators:          []validator.String{instant{}},
		PlanModifiers:       []planmodifier.String{instant{}},
	}
}

func optionalInstant(description string) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: description,
		Optional:            true,
		Validators:          []validator.String{instant{}},
		PlanModifiers:       []planmodifier.String{instant{}},
	}
}

// raised is the version of a write-only value, of which Terraform cannot see that it changed.
func raised(description string) schema.Int64Attribute { return defaultedNumber(description, 1) }

func texts(description string) schema.SetAttribute {
	return schema.SetAttribute{
		MarkdownDescription: description,
		ElementType:         types.StringType,
		Optional:            true,
		Computed:            true,
		Default:             setdefault.StaticValue(setOf(nil)),
	}
}

func labels(description string) schema.MapAttribute {
	return schema.MapAttribute{
		MarkdownDescription: description,
		ElementType:         types.StringType,
		Optional:            true,
		Computed:            true,
		Default:             mapdefault.StaticValue(mapOf(nil)),
	}
}

func oneOf(values ...string) validator.String { return stringvalidator.OneOf(values...) }

const (
	describedText = "Free text, at most 2000 characters."
	nameText      = "What people call it: 1 to 128 characters."
)

// saysSomething refuses an object without any attribute: the API keeps none of those.
type saysSomething struct{}

func (saysSomething) Description(context.Context) string               { return "at least one attribute is set" }
func (s saysSomething) MarkdownDescription(ctx context.Context) string { return s.Description(ctx) }

func (saysSomething) ValidateObject(_ context.Context, req validator.ObjectRequest, resp *validator.ObjectResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	for _, value := range req.ConfigValue.Attributes() {
		if !value.IsNull() {
			return
		}
	}
	resp.Diagnostics.AddAttributeError(req.Path, "Nothing is said", req.Path.String()+" must set at least one attribute, or be absent.")
}
