import type { DefinitionKind, GrantEffect, GrantMode, Role, SubjectKind } from '@sallyport/schema';
import { permissions } from '@sallyport/schema';
import { Field, ID, InputType, ObjectType } from 'type-graphql';
import { DefinitionKindEnum } from '../catalog/catalog.graphql.ts';
import { connectionType, DateTime, graphqlEnum, MutationInput } from '../graphql-connection.ts';
import type { GrantRow } from './access.tables.ts';

export const RoleEnum = graphqlEnum<Role>(
  'Role',
  'A set of control-plane permissions. A role never gives access to tools; only grants do.',
  {
    owner: 'Everything, also giving and taking roles.',
    admin: 'Everything but giving and taking roles.',
    editor: 'Registers and edits servers; reads the rest of the configuration.',
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
  @Field(() => RoleEnum, { description: 'The role.' })
  role!: Role;

  @Field(() => [String], { description: `What it permits, as noun:verb, for example ${permissions[0]}.` })
  permissions!: string[];
}

@ObjectType({ description: 'A role that a principal holds.' })
export class RoleBinding {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { description: 'Id of the principal that holds the role.' })
  principalId!: string;

  @Field(() => RoleEnum, { description: 'The role it holds.' })
  role!: Role;

  @Field(() => DateTime, { description: 'When the role was given.' })
  createdAt!: Date;
}

export const RoleBindingConnection = connectionType('RoleBinding', 'role bindings', () => RoleBinding);

@InputType({ description: 'A role to give to or take from a principal.' })
export class RoleInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the user or service account.' })
  principalId!: string;

  @Field(() => RoleEnum, { description: 'The role.' })
  role!: Role;
}

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
