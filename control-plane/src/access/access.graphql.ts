import { permissions, type Role, type SubjectKind } from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
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

type Effect = GrantRow['effect'];

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

export const EffectEnum = graphqlEnum<Effect>('Effect', 'What a grant does.', {
  allow: 'Allows what it selects, unless another grant denies it.',
  deny: 'Denies what it selects, whatever other grants allow.',
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

@ObjectType({ description: 'Who may, or may not, use which tools, prompts and resources of a server, and when.' })
export class Grant {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What administrators call it; need not be unique.' })
  name!: string;

  @Field(() => ID, { description: 'Id of the server it is about.' })
  serverId!: string;

  @Field(() => EffectEnum, { description: 'Whether it allows or denies.' })
  effect!: Effect;

  @Field(() => [String], { description: 'Tools it selects, by exact name or glob.' })
  tools!: string[];

  @Field(() => [String], { description: 'Prompts it selects, by exact name or glob.' })
  prompts!: string[];

  @Field(() => [String], { description: 'Resources and resource templates it selects, by exact URI or glob.' })
  resources!: string[];

  @Field(() => DateTime, { nullable: true, description: 'It has no effect before; null for no bound.' })
  notBefore!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'It has no effect from then on; null for no bound.' })
  notAfter!: Date | null;

  @Field(() => GrantSourceEnum, { description: 'How it came to be.' })
  source!: GrantRow['source'];

  @Field(() => String, { description: 'Why it exists, in the words of who made it.' })
  reason!: string;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}

export const GrantConnection = connectionType('Grant', 'grants', () => Grant);

@ArgsType()
export class GrantsArguments extends PageArguments {
  @Field(() => ID, { nullable: true, description: 'Only grants about this server.' })
  serverId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only grants that name this user or service account itself.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only grants that name this group.' })
  groupId?: string | null;

  @Field(() => EffectEnum, { nullable: true, description: 'Only grants with this effect.' })
  effect?: Effect | null;
}

@InputType({ description: 'Whom a grant is for.' })
export class GrantSubjectInput {
  @Field(() => SubjectKindEnum, { description: 'What kind of subject it is.' })
  kind!: SubjectKind;

  @Field(() => ID, { nullable: true, description: 'Id of the user, group or service account; absent for everyone.' })
  id?: string | null;
}

@InputType({ description: 'A new grant. At least one of tools, prompts and resources must select something.' })
export class CreateGrantInput extends CreateInput {
  @Field(() => String, { description: 'What to call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => GrantSubjectInput, { description: 'Whom it is for.' })
  subject!: GrantSubjectInput;

  @Field(() => ID, { description: 'Id of the server it is about.' })
  serverId!: string;

  @Field(() => EffectEnum, { description: 'Whether it allows or denies.' })
  effect!: Effect;

  @Field(() => [String], { nullable: true, description: 'Tools by exact name or glob ("*" matches any characters).' })
  tools?: string[] | null;

  @Field(() => [String], { nullable: true, description: 'Prompts by exact name or glob.' })
  prompts?: string[] | null;

  @Field(() => [String], { nullable: true, description: 'Resources by exact URI or glob.' })
  resources?: string[] | null;

  @Field(() => DateTime, { nullable: true, description: 'No effect before; absent for no bound.' })
  notBefore?: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'No effect from then on; absent for no bound.' })
  notAfter?: Date | null;

  @Field(() => GrantSourceEnum, { nullable: true, description: 'How it comes to be; STATIC if absent.' })
  source?: GrantRow['source'] | null;

  @Field(() => String, { nullable: true, description: 'Why it exists.' })
  reason?: string | null;
}

@InputType({ description: 'Changes to a grant: absent fields keep their value. Subject, server and effect are fixed.' })
export class UpdateGrantInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'What to call it: 1 to 128 characters.' })
  name?: string | null;

  @Field(() => [String], { nullable: true, description: 'Replaces the tools it selects.' })
  tools?: string[] | null;

  @Field(() => [String], { nullable: true, description: 'Replaces the prompts it selects.' })
  prompts?: string[] | null;

  @Field(() => [String], { nullable: true, description: 'Replaces the resources it selects.' })
  resources?: string[] | null;

  @Field(() => DateTime, { nullable: true, description: 'No effect before; null removes the bound.' })
  notBefore?: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'No effect from then on; null removes the bound.' })
  notAfter?: Date | null;

  @Field(() => String, { nullable: true, description: 'Why it exists.' })
  reason?: string | null;
}

@InputType({ description: 'A grant to end now.' })
export class EndGrantInput extends ChangeInput {}

@InputType({ description: 'A grant to delete.' })
export class DeleteGrantInput extends ChangeInput {}
