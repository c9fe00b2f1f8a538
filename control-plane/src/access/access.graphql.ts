import type { DefinitionKind, GrantEffect, GrantMode, Role, SubjectKind } from '@sallyport/schema';
import { permissions } from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { DefinitionKindEnum, LabelInput } from '../catalog/catalog.graphql.ts';
import {
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  graphqlEnum,
  MutationInput,
  PageArguments,
} from '../graphql-connection.ts';
import type { GrantRow } from './access.tables.ts';
import type { ProposalState, ProposedChange } from './role-proposal.service.ts';

export const RoleEnum = graphqlEnum<Role>(
  'Role',
  'A set of control-plane permissions. A role never gives access to tools; only grants do.',
  {
    owner: 'Everything, also giving and taking roles.',
    admin: 'Everything but giving and taking roles.',
    editor: 'Registers and edits servers of the groups it belongs to; reads the rest of the configuration.',
    auditor: 'Reads the configuration, keys and the audit trail.',
    viewer: 'Reads the configuration and traffic.',
    member: 'Nothing in the control plane.',
  },
);

export const SubjectKindEnum = graphqlEnum<SubjectKind>('SubjectKind', 'Whom a grant is for.', {
  user: 'One user.',
  group: 'All members of a group.',
  serviceAccount: 'One service account.',
  everyone: 'Every principal.',
});

export const EffectEnum = graphqlEnum<GrantEffect>('Effect', 'What a grant does.', {
  allow: 'Allows what it selects, unless another grant denies it.',
  deny: 'Denies what it selects, whatever other grants allow.',
  requireApproval: 'Opens what it selects, but each call needs an approval first.',
});

export const GrantModeEnum = graphqlEnum<GrantMode>('GrantMode', 'Whether a grant is in force.', {
  enforce: 'It takes part in decisions.',
  shadow: 'It decides nothing: the audit tells what it would have changed.',
});

export const GrantSourceEnum = graphqlEnum<GrantRow['source']>('GrantSource', 'How a grant came to be.', {
  static: 'Made by an administrator.',
  request: 'Made by approving a request.',
  terraform: 'Managed by Terraform.',
  breakGlass: 'Made in an emergency.',
});

@ObjectType({ description: 'A role and what it permits.' })
export class RoleDescription {
  @Field(() => ID, { description: 'Unique and permanent; of a built-in role its name, such as "admin".' })
  id!: string;

  @Field(() => RoleEnum, { nullable: true, description: 'The built-in role; null for a custom one.' })
  role!: Role | null;

  @Field(() => String, { description: 'What people call it. Unique.' })
  name!: string;

  @Field(() => String, { description: 'What it is for.' })
  description!: string;

  @Field(() => [String], { description: `What it permits, as noun:verb, for example ${permissions[0]}.` })
  permissions!: string[];

  @Field(() => Int, {
    nullable: true,
    description: 'Raised by each change; pass it as expectedRevision. Null for a built-in role, which is read-only.',
  })
  revision!: number | null;
}

@ObjectType({ description: 'A role that a principal or the members of a group hold.' })
export class RoleBinding {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { nullable: true, description: 'Id of the principal that holds the role; null for a group.' })
  principalId!: string | null;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the group whose members hold the role; null for a principal.',
  })
  groupId!: string | null;

  @Field(() => RoleEnum, { nullable: true, description: 'The built-in role; null for a custom one.' })
  role!: Role | null;

  @Field(() => DateTime, { description: 'When the role was given.' })
  createdAt!: Date;
}

export const RoleBindingConnection = connectionType('RoleBinding', 'role bindings', () => RoleBinding);

@ArgsType()
export class RoleBindingsArguments extends PageArguments {
  @Field(() => ID, { nullable: true, description: 'Only roles bound to this principal itself.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only roles bound to this group.' })
  groupId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only this role: id of a custom one, or name of a built-in one.' })
  roleId?: string | null;
}

@InputType({
  description: 'A role to give or take: one of role and roleId, to or from one of principalId and groupId.',
})
export class RoleInput extends MutationInput {
  @Field(() => ID, { nullable: true, description: 'Id of the user or service account.' })
  principalId?: string | null;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the group, whose members hold the role as long as they belong.',
  })
  groupId?: string | null;

  @Field(() => RoleEnum, { nullable: true, description: 'A built-in role.' })
  role?: Role | null;

  @Field(() => ID, { nullable: true, description: 'Id of a custom role.' })
  roleId?: string | null;

  @Field(() => [LabelInput], {
    nullable: true,
    description:
      'Limits the role to servers that carry all of these labels, now and later; everywhere if absent. A limited role ' +
      'gives the permissions about servers alone.',
  })
  serverLabels?: LabelInput[] | null;
}

const permissionsDescription = 'What it permits, from the permissions of the built-in roles; without role:assign.';

@InputType({ description: 'A new custom role.' })
export class CreateRoleInput extends CreateInput {
  @Field(() => String, { description: 'Unique among the roles: 1 to 128 characters.' })
  name!: string;

  @Field(() => String, { nullable: true, description: 'What it is for, at most 2000 characters.' })
  description?: string | null;

  @Field(() => [String], { description: permissionsDescription })
  permissions!: string[];
}

@InputType({ description: 'Changes to a custom role: absent fields keep their value.' })
export class UpdateRoleInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'Unique among the roles: 1 to 128 characters.' })
  name?: string | null;

  @Field(() => String, { nullable: true, description: 'What it is for, at most 2000 characters.' })
  description?: string | null;

  @Field(() => [String], { nullable: true, description: permissionsDescription })
  permissions?: string[] | null;
}

@InputType({ description: 'A custom role to delete; it must not be bound to anybody.' })
export class DeleteRoleInput extends ChangeInput {}

export const ProposalStateEnum = graphqlEnum<ProposalState>('RoleProposalState', 'Where a proposed role stands.', {
  open: 'It waits for a second person.',
  confirmed: 'The role was given.',
  cancelled: 'It was withdrawn.',
  expired: 'Nobody confirmed it in time.',
});

export const ProposedChangeEnum = graphqlEnum<ProposedChange>('ProposedRoleChange', 'What is proposed.', {
  give: 'To give the role.',
  take: 'To take the role away.',
});

@ObjectType({ description: 'A role to give or to take away, proposed by one person for another to confirm.' })
export class RoleProposal {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { description: 'Id of the principal that is to get or lose the role.' })
  principalId!: string;

  @Field(() => ProposedChangeEnum, { description: 'Whether the role is to be given or taken.' })
  change!: ProposedChange;

  @Field(() => RoleEnum, { nullable: true, description: 'The built-in role; null for a custom one.' })
  role!: Role | null;

  @Field(() => String, { description: 'Why, in the words of who proposed it.' })
  reason!: string;

  @Field(() => ID, { description: 'Id of the principal that proposed it.' })
  proposedBy!: string;

  @Field(() => ID, { nullable: true, description: 'Id of the principal that confirmed or cancelled it.' })
  decidedBy!: string | null;

  @Field(() => DateTime, { nullable: true, description: 'When it was confirmed or cancelled.' })
  decidedAt!: Date | null;

  @Field(() => DateTime, { description: 'It cannot be confirmed from then on.' })
  expiresAt!: Date;

  @Field(() => DateTime, { description: 'When it was proposed.' })
  createdAt!: Date;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;
}
export const RoleProposalConnection = connectionType('RoleProposal', 'proposed roles', () => RoleProposal);

@ArgsType()
export class RoleProposalsArguments extends PageArguments {
  @Field(() => ProposalStateEnum, { nullable: true, description: 'Only those in this state.' })
  state?: ProposalState | null;
}

@InputType({ description: 'A role to propose, one of role and roleId: to give it, or to take owner away.' })
export class ProposeRoleInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the user or service account.' })
  principalId!: string;

  @Field(() => ProposedChangeEnum, {
    nullable: true,
    description: 'GIVE if absent. TAKE is for the role OWNER; others are taken away by removeRole.',
  })
  change?: ProposedChange | null;

  @Field(() => RoleEnum, { nullable: true, description: 'OWNER or AUDITOR.' })
  role?: Role | null;

  @Field(() => ID, { nullable: true, description: 'Id of a custom role with permissions of theirs.' })
  roleId?: string | null;

  @Field(() => String, { nullable: true, description: 'Why, for who confirms and for the audit trail.' })
  reason?: string | null;

  @Field(() => DateTime, {
    nullable: true,
    description: 'Until when it may be confirmed: at most 30 days away; in 7 days if absent.',
  })
  expiresAt?: Date | null;
}

@InputType({ description: 'A proposed role to confirm or cancel.' })
export class RoleProposalInput extends ChangeInput {}

@ObjectType({ description: 'Whom a grant is for.' })
export class GrantSubject {
  @Field(() => SubjectKindEnum, { description: 'What kind of subject it is.' })
  kind!: SubjectKind;

  @Field(() => ID, { nullable: true, description: 'Id of the user, group or service account; null for everyone.' })
  id!: string | null;
}

@ObjectType({ description: 'A tool, prompt or resource that somebody may use.' })
export class AccessItem {
  @Field(() => DefinitionKindEnum, { description: 'What it is.' })
  kind!: DefinitionKind;

  @Field(() => String, { description: 'Its name, URI or URI template.' })
  name!: string;

  @Field(() => EffectEnum, { description: 'ALLOW, or REQUIRE_APPROVAL.' })
  effect!: GrantEffect;

  @Field(() => Boolean, { description: 'Whether a condition has a say, so that not every call may.' })
  isConditional!: boolean;
}

@ObjectType({ description: 'What somebody gains and loses on a server by a change that was tried with dryRun.' })
export class AccessChange {
  @Field(() => GrantSubject, { description: 'Whose access changes; a group stands for its members.' })
  subject!: GrantSubject;

  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => String, { description: 'Slug of the server.' })
  slug!: string;

  @Field(() => [AccessItem], { description: 'What becomes usable.' })
  gained!: readonly AccessItem[];

  @Field(() => [AccessItem], { description: 'What stops being usable.' })
  lost!: readonly AccessItem[];

  @Field(() => [AccessItem], { description: 'What stays usable, by another effect or condition; as it will be.' })
  changed!: readonly AccessItem[];

  @Field(() => String, { description: 'In one line, such as "group analysts gains 4 tools on jira, loses 1 tool".' })
  summary!: string;
}

export const accessChangesDescription =
  'Difference in effective access, in the answer to a change with dryRun; null otherwise.';
