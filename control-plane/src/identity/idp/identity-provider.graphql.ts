import { Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { ChangeInput, connectionType, CreateInput, DateTime } from '../../graphql-connection.ts';

const ruleValue = 'What the groups claim holds: an object id at Entra, a name at Okta. Compared to the letter.';
const scopesText = 'Scopes to ask for; openid, profile and email if absent.';
const subjectClaimText = 'The claim that identifies a user for good: sub, or oid at Entra.';
const groupsClaimText = 'The claim that holds groups or app roles; null if none is looked at.';
const groupsUrlText =
  'Where groups are read when a token does not hold them all (Entra above 200); {subject} stands for the user. The URL ' +
  'that a token names is never used.';
const groupsUrlScopeText = 'Scope of the token that opens groupsUrl.';
const acrText = 'A login must be of one of these authentication contexts (step-up); none: of any.';
const createsUsersText = 'Whether a user who logs in for the first time is made.';
const assertionsText = 'Whether its identity assertions (ID-JAG) give access tokens.';
const enabledText = 'Whether users can log in with it.';

@ObjectType({ description: 'A rule: whoever has the value among its groups at the provider belongs to the group.' })
export class GroupMappingRule {
  @Field(() => String, { description: ruleValue })
  value!: string;

  @Field(() => ID, { description: 'Id of the group; its members are what the provider says.' })
  groupId!: string;
}

@ObjectType({ description: 'A claim that a token must have.' })
export class RequiredClaim {
  @Field(() => String, { description: 'Name of the claim, such as tid.' })
  name!: string;

  @Field(() => String, { description: 'Its value.' })
  value!: string;
}

@ObjectType({ description: 'An identity provider that users log in with, by OpenID Connect.' })
export class IdentityProvider {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What people call it; on the button of the login page.' })
  name!: string;

  @Field(() => String, { description: 'Its issuer, by which its users are keyed; permanent.' })
  issuer!: string;

  @Field(() => String, { description: 'Our client id there.' })
  clientId!: string;

  @Field(() => Boolean, { description: 'Whether a client secret is stored; it is never shown.' })
  hasClientSecret!: boolean;

  @Field(() => [String], { description: scopesText })
  scopes!: string[];

  @Field(() => String, { description: subjectClaimText })
  subjectClaim!: string;

  @Field(() => String, { nullable: true, description: groupsClaimText })
  groupsClaim!: string | null;

  @Field(() => String, { nullable: true, description: groupsUrlText })
  groupsUrl!: string | null;

  @Field(() => String, { nullable: true, description: groupsUrlScopeText })
  groupsUrlScope!: string | null;

  @Field(() => [GroupMappingRule], { description: 'Which groups its users belong to.' })
  groupRules!: readonly GroupMappingRule[];

  @Field(() => [RequiredClaim], { description: 'Claims that a token must have.' })
  requiredClaims!: readonly RequiredClaim[];

  @Field(() => [String], { description: acrText })
  acrValues!: string[];

  @Field(() => Boolean, { description: createsUsersText })
  createsUsers!: boolean;

  @Field(() => Boolean, { description: assertionsText })
  acceptsAssertions!: boolean;

  @Field(() => Boolean, { description: enabledText })
  enabled!: boolean;

  @Field(() => String, {
    nullable: true,
    description: 'The redirect URI to register there, its own for each provider; null without an own public URL.',
  })
  redirectUri!: string | null;

  @Field(() => String, { nullable: true, description: 'The back-channel logout URI to register there.' })
  backChannelLogoutUri!: string | null;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}
export const IdentityProviderConnection = connectionType(
  'IdentityProvider',
  'identity providers',
  () => IdentityProvider,
);

@InputType({ description: 'A rule: whoever has the value among its groups at the provider belongs to the group.' })
export class GroupMappingRuleInput {
  @Field(() => String, { description: ruleValue })
  value!: string;

  @Field(() => ID, { description: 'Id of the group, which is emptied and filled at logins from then on.' })
  groupId!: string;
}

@InputType({ description: 'A claim that a token must have.' })
export class RequiredClaimInput {
  @Field(() => String, { description: 'Name of the claim, such as tid.' })
  name!: string;

  @Field(() => String, { description: 'Its value.' })
  value!: string;
}

@InputType({ description: 'A new identity provider.' })
export class CreateIdentityProviderInput extends CreateInput {
  @Field(() => String, { description: 'What people call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => String, { description: 'Its issuer, exactly as its metadata names it.' })
  issuer!: string;

  @Field(() => String, { description: 'Our client id there.' })
  clientId!: string;

  @Field(() => String, { nullable: true, description: 'Our client secret there; sealed, and never shown.' })
  clientSecret?: string | null;

  @Field(() => [String], { nullable: true, description: scopesText })
  scopes?: string[] | null;

  @Field(() => String, { nullable: true, description: subjectClaimText })
  subjectClaim?: string | null;

  @Field(() => String, { nullable: true, description: groupsClaimText })
  groupsClaim?: string | null;

  @Field(() => String, { nullable: true, description: groupsUrlText })
  groupsUrl?: string | null;

  @Field(() => String, { nullable: true, description: groupsUrlScopeText })
  groupsUrlScope?: string | null;

  @Field(() => [GroupMappingRuleInput], {
    nullable: true,
    description: 'Which groups its users belong to; at most 500.',
  })
  groupRules?: GroupMappingRuleInput[] | null;

  @Field(() => [RequiredClaimInput], { nullable: true, description: 'Claims that a token must have.' })
  requiredClaims?: RequiredClaimInput[] | null;

  @Field(() => [String], { nullable: true, description: acrText })
  acrValues?: string[] | null;

  @Field(() => Boolean, { nullable: true, description: createsUsersText })
  createsUsers?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: assertionsText })
  acceptsAssertions?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: enabledText })
  enabled?: boolean | null;
}

@InputType({ description: 'Changes to an identity provider: absent fields keep their value.' })
export class UpdateIdentityProviderInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'What people call it: 1 to 128 characters.' })
  name?: string | null;

  @Field(() => String, { nullable: true, description: 'Our client id there.' })
  clientId?: string | null;

  @Field(() => String, { nullable: true, description: 'Our client secret there; null removes it.' })
  clientSecret?: string | null;

  @Field(() => [String], { nullable: true, description: scopesText })
  scopes?: string[] | null;

  @Field(() => String, { nullable: true, description: subjectClaimText })
  subjectClaim?: string | null;

  @Field(() => String, { nullable: true, description: groupsClaimText })
  groupsClaim?: string | null;

  @Field(() => String, { nullable: true, description: groupsUrlText })
  groupsUrl?: string | null;

  @Field(() => String, { nullable: true, description: groupsUrlScopeText })
  groupsUrlScope?: string | null;

  @Field(() => [GroupMappingRuleInput], {
    nullable: true,
    description: 'Which groups its users belong to; at most 500.',
  })
  groupRules?: GroupMappingRuleInput[] | null;

  @Field(() => [RequiredClaimInput], { nullable: true, description: 'Claims that a token must have.' })
  requiredClaims?: RequiredClaimInput[] | null;

  @Field(() => [String], { nullable: true, description: acrText })
  acrValues?: string[] | null;

  @Field(() => Boolean, { nullable: true, description: createsUsersText })
  createsUsers?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: assertionsText })
  acceptsAssertions?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: enabledText })
  enabled?: boolean | null;
}

@InputType({ description: 'An identity provider to delete; what came of logins there ends.' })
export class DeleteIdentityProviderInput extends ChangeInput {}
