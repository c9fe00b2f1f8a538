package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type serviceAccountModel struct {
	base
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	OwnerID     types.String `tfsdk:"owner_id"`
	ExpiresAt   types.String `tfsdk:"expires_at"`
	Status      types.String `tfsdk:"status"`
}

var serviceAccountKind = kind[serviceAccountModel]{
	name: "service_account",
	schema: schema.Schema{
		MarkdownDescription: "A program that acts: an agent, a pipeline. A user answers for it, and it expires. Deleting it " +
			"deletes its keys, memberships and grants.",
		Attributes: map[string]schema.Attribute{
			"name":        required(nameText),
			"description": defaulted(describedText, ""),
			"owner_id": schema.StringAttribute{
				MarkdownDescription: "Id of the user who answers for it; if absent, whoever the API key belongs to, or the owner of " +
					"that account.",
				Optional:      true,
				Computed:      true,
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
			"expires_at": requiredInstant("It may do nothing from then on; at most five years away."),
			"status":     defaulted(statusText, "active", oneOf(lowered(api.AllPrincipalStatus)...)),
		},
	},
	standIns: []string{"owner_id"},
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.ServiceAccountFields, error) { return c.AllServiceAccounts(ctx) },
			func(account api.ServiceAccountFields) bool { return account.Name == key },
			func(account api.ServiceAccountFields) string { return account.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *serviceAccountModel) (int, error) {
		answer, err := api.ReadServiceAccount(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.ServiceAccount)
		return answer.ServiceAccount.Revision, nil
	},
	create: createServiceAccount,
	update: updateServiceAccount,
	remove: func(ctx context.Context, c *api.Client, m serviceAccountModel, by change) (outcome, error) {
		answer, err := api.DeleteServiceAccount(ctx, c, api.DeleteServiceAccountInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{access: answer.DeleteServiceAccount.AccessChanges}, err
	},
}

func (m *serviceAccountModel) fill(account api.ServiceAccountFields) {
	m.ID = types.StringValue(account.Id)
	m.Name = types.StringValue(account.Name)
	m.Description = types.StringValue(account.Description)
	m.OwnerID = types.StringValue(account.OwnerId)
	m.ExpiresAt = instantFrom(m.ExpiresAt, account.ExpiresAt)
	m.Status = types.StringValue(lower(account.Status))
}

func createServiceAccount(
	ctx context.Context, c *api.Client, m *serviceAccountModel, by change,
) (outcome, error) {
	input := api.CreateServiceAccountInput{
		Name:           m.Name.ValueString(),
		Description:    optional.Of(m.Description.ValueString()),
		ExpiresAt:      m.ExpiresAt.ValueString(),
		DryRun:         by.dryRun,
		IdempotencyKey: api.IdempotencyKey(),
	}
	// In a plan it is unknown both where another resource gives it and where the API will.
	if !m.OwnerID.IsNull() && !m.OwnerID.IsUnknown() {
		input.OwnerId = optional.Of(m.OwnerID.ValueString())
	}
	status := m.Status
	answer, err := api.CreateServiceAccount(ctx, c, input)
	made := outcome{revision: answer.CreateServiceAccount.Revision}
	if err != nil || by.dryRun {
		return made, err
	}
	m.fill(answer.CreateServiceAccount)
	if status.Equal(m.Status) {
		return made, nil
	}
	m.Status = status
	return updateServiceAccount(ctx, c, *m, m, change{revision: made.revision})
}

func updateServiceAccount(
	ctx context.Context, c *api.Client, before serviceAccountModel, m *serviceAccountModel, by change,
) (outcome, error) {
	input := api.UpdateServiceAccountInput{
		Id:               m.ID.ValueString(),
		ExpectedRevision: atRevision(by),
		Name:             optional.Of(m.Name.ValueString()),
		Description:      optional.Of(m.Description.ValueString()),
		Status:           optional.Of(upper[api.PrincipalStatus](m.Status)),
		DryRun:           by.dryRun,
	}
	if !m.OwnerID.IsUnknown() {
		input.OwnerId = optional.Of(m.OwnerID.ValueString())
	}
	// One that has passed is not said again: it would be refused, and says nothing new.
	if !m.ExpiresAt.Equal(before.ExpiresAt) {
		input.ExpiresAt = optional.Of(m.ExpiresAt.ValueString())
	}
	answer, err := api.UpdateServiceAccount(ctx, c, input)
	if err == nil && !by.dryRun {
		m.fill(answer.UpdateServiceAccount.ServiceAccountFields)
	}
	changed := answer.UpdateServiceAccount
	return outcome{revision: changed.Revision, access: changed.AccessChanges}, err
}
