package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type userModel struct {
	base
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	Email       types.String `tfsdk:"email"`
	Status      types.String `tfsdk:"status"`
	Issuer      types.String `tfsdk:"issuer"`
	Subject     types.String `tfsdk:"subject"`
}

const statusText = "`active`, or `disabled`: it may do nothing, and its keys and sessions are refused. `active` if absent."

var userKind = kind[userModel]{
	name: "user",
	schema: schema.Schema{
		MarkdownDescription: "A person. Users that an identity provider vouches for come by their first login or by SCIM; this " +
			"makes local ones, and manages either after an import. Deleting a user deletes its keys, memberships and grants.",
		Attributes: map[string]schema.Attribute{
			"name":        required(nameText),
			"description": defaulted(describedText, ""),
			"email":       optionalText("Where to write to; never used as an identity."),
			"status":      defaulted(statusText, "active", oneOf(lowered(api.AllPrincipalStatus)...)),
			"issuer":      told("Who vouches for the identity: `local`, or the issuer of an identity provider."),
			"subject":     told("Identity at the issuer; issuer and subject together are unique."),
		},
	},
	locate: locateUser,
	read: func(ctx context.Context, c *api.Client, m *userModel) (int, error) {
		answer, err := api.ReadUser(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.User)
		return answer.User.Revision, nil
	},
	create: createUser,
	update: updateUser,
	remove: func(ctx context.Context, c *api.Client, m userModel, by change) (outcome, error) {
		answer, err := api.DeleteUser(ctx, c, api.DeleteUserInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{access: answer.DeleteUser.AccessChanges}, err
	},
}

// locateUser takes an id, an e-mail address, ISSUER/SUBJECT or a name.
func locateUser(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	return locateOne(key, func() ([]api.UserFields, error) { return c.AllUsers(ctx) },
		func(user api.UserFields) bool {
			email, hasEmail := user.Email.Get()
			return user.Name == key || (hasEmail && email == key) || user.Issuer+"/"+user.Subject == key
		}, func(user api.UserFields) string { return user.Id })
}

func (m *userModel) fill(user api.UserFields) {
	m.ID = types.StringValue(user.Id)
	m.Name = types.StringValue(user.Name)
	m.Description = types.StringValue(user.Description)
	m.Email = stringFrom(user.Email)
	m.Status = types.StringValue(lower(user.Status))
	m.Issuer, m.Subject = types.StringValue(user.Issuer), types.StringValue(user.Subject)
}

func createUser(ctx context.Context, c *api.Client, m *userModel, by change) (outcome, error) {
	status := m.Status
	answer, err := api.CreateUser(ctx, c, api.CreateUserInput{
		Name:           m.Name.ValueString(),
		Description:    optional.Of(m.Description.ValueString()),
		Email:          nullable(m.Email),
		DryRun:         by.dryRun,
		IdempotencyKey: api.IdempotencyKey(),
	})
	made := outcome{revision: answer.CreateUser.Revision}
	if err != nil || by.dryRun {
		return made, err
	}
	m.fill(answer.CreateUser)
	if status.Equal(m.Status) {
		return made, nil
	}
	m.Status = status
	return updateUser(ctx, c, *m, m, change{revision: made.revision})
}

func updateUser(ctx context.Context, c *api.Client, _ userModel, m *userModel, by change) (outcome, error) {
	answer, err := api.UpdateUser(ctx, c, api.UpdateUserInput{
		Id:               m.ID.ValueString(),
		ExpectedRevision: atRevision(by),
		Name:             optional.Of(m.Name.ValueString()),
		Description:      optional.Of(m.Description.ValueString()),
		Email:            nullable(m.Email),
		Status:           optional.Of(upper[api.PrincipalStatus](m.Status)),
		DryRun:           by.dryRun,
	})
	if err == nil && !by.dryRun {
		m.fill(answer.UpdateUser.UserFields)
	}
	return outcome{revision: answer.UpdateUser.Revision, access: answer.UpdateUser.AccessChanges}, err
}
