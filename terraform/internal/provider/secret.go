package provider

import (
	"fmt"
	"regexp"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// brought is the secret of a key or token that the configuration brings along: Terraform keeps it in no state and no
// plan, so it can be handed to a secret store by another write-only attribute in the same run.
type brought struct {
	SecretWO        types.String `tfsdk:"secret_wo"`
	SecretWOVersion types.Int64  `tfsdk:"secret_wo_version"`
}

// broughtAttributes are those of a kind whose secrets begin with a prefix.
func broughtAttributes(prefix string, others map[string]schema.Attribute) map[string]schema.Attribute {
	pattern := regexp.MustCompile("^" + prefix + `[A-Za-z0-9_-]{43,96}$`)
	others["secret_wo"] = schema.StringAttribute{
		MarkdownDescription: fmt.Sprintf("The secret itself, needed when it is made: `%s` and 43 to 96 random letters, digits, `-` "+
			"or `_`, such as of an ephemeral `random_password` without special characters. Kept in no state and no plan; the "+
			"control plane stores only its digest.", prefix),
		Optional:  true,
		WriteOnly: true,
		Sensitive: true,
		Validators: []validator.String{stringvalidator.RegexMatches(pattern,
			fmt.Sprintf("must be %s and 43 to 96 random letters, digits, - or _", prefix))},
	}
	others["secret_wo_version"] = raised("Raise it to replace the secret: the old one ends when the new one has been made, " +
		"with `create_before_destroy`. `1` if absent.")
	return others
}

// adopt sets what an import cannot know.
func (b *brought) adopt() {
	if b.SecretWOVersion.IsNull() {
		b.SecretWOVersion = types.Int64Value(1)
	}
}

// secret is absent while it is not known; without one nothing can be made that anybody could use.
func (b *brought) secret() (optional.Value[string], error) {
	if b.SecretWO.IsUnknown() {
		return optional.Value[string]{}, nil
	}
	if b.SecretWO.ValueString() == "" {
		return optional.Value[string]{}, invalid("input.secret", "must be set to make it; nobody could learn a secret made elsewhere")
	}
	return optional.Of(b.SecretWO.ValueString()), nil
}

// explained says of a refused secret what to do: one opens for a single key or token, and never again after that ended.
func (b *brought) explained(err error) error {
	if b.SecretWO.ValueString() == "" || !api.IsConflict(err) {
		return err
	}
	return invalid("input.secret", "is that of another one, or of one that was revoked, and opens nothing any more: bring another secret")
}
