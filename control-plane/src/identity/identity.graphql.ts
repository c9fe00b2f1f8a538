import type { ApiKeyScope } from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { AccessChange, accessChangesDescription } from '../access/access.graphql.ts';
import { Label, LabelInput } from '../catalog/catalog.graphql.ts';
import {
  broughtSecretDescription,
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  graphqlEnum,
  MutationInput,
  PageArguments,
  ReferenceInput,
  SearchArguments,
} from '../graphql-connection.ts';
import type { PrincipalRow } from './identity.tables.ts';

export const PrincipalKindEnum = graphqlEnum<PrincipalRow['kind']>('PrincipalKind', 'What kind of principal it is.', {
  user: 'A person.',
  serviceAccount: 'A program: an agent, a pipeline.',
});

export const PrincipalStatusEnum = graphqlEnum<PrincipalRow['status']>('PrincipalStatus', 'Whether it may act.', {
  active: 'It may act.',
  disabled: 'It may do nothing: its keys and sessions are refused.',
});

export const ApiKeyScopeEnum = graphqlEnum<ApiKeyScope>('ApiKeyScope', 'What a key opens.', {
  mcp: 'Granted tools, through nodes.',
  api: 'The control plane, with the roles of its holder.',
  apiRead: 'The control plane, only to look, with the roles of its holder.',
});

@ObjectType({ description: 'A user or a service account, as others refer to it.' })
export class Principal {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => PrincipalKindEnum, { description: 'What kind of principal it is.' })
  kind!: PrincipalRow['kind'];

  @Field(() => String, { description: 'What people call it.' })
  name!: string;

  @Field(() => PrincipalStatusEnum, { description: 'Whether it may act.' })
  status!: PrincipalRow['status'];
}
export const PrincipalConnection = connectionType('Principal', 'principals', () => Principal);

@ObjectType({ description: 'What somebody may do on servers that carry some labels.' })
export class LimitedPermissions {
  @Field(() => [Label], { description: 'The labels, all of which a server must carry.' })
  serverLabels!: Label[];

  @Field(() => [String], { description: 'What it may do with them, as noun:verb.' })
  permissions!: string[];
}

@ObjectType({ description: 'Who is asking, and what it may do.' })
export class Me {
  @Field(() => ID, { description: 'Id of the principal.' })
  id!: string;

  @Field(() => String, { description: 'What people call it.' })
  name!: string;

  @Field(() => PrincipalKindEnum, { description: 'What kind of principal it is.' })
  kind!: PrincipalRow['kind'];

  @Field(() => ID, { nullable: true, description: 'Id of the API key in use.' })
  apiKeyId!: string | null;

  @Field(() => [String], {
    description:
      'What it may do, as noun:verb, by its roles and those of its groups, within what the key in use opens.',
  })
  permissions!: string[];

  @Field(() => [LimitedPermissions], { description: 'What it may do besides on some servers.' })
  limitedPermissions!: LimitedPermissions[];
}

@ObjectType({ description: 'A person.' })
export class User {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What people call it.' })
  name!: string;

  @Field(() => String, { description: 'Free text.' })
  description!: string;

  @Field(() => String, { nullable: true, description: 'Where to write to; never used as an identity.' })
  email!: string | null;

  @Field(() => String, { description: 'Who vouches for the identity: "local", or the issuer of an identity provider.' })
  issuer!: string;

  @Field(() => String, { description: 'Identity at the issuer; issuer and subject together are unique.' })
  subject!: string;

  @Field(() => PrincipalStatusEnum, { description: 'Whether it may act.' })
  status!: PrincipalRow['status'];

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the SCIM directory that provisions it; null where it is managed here.',
  })
  directoryId!: string | null;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;

  @Field(() => [AccessChange], { nullable: true, description: accessChangesDescription })
  accessChanges?: readonly AccessChange[] | null;
}
export const UserConnection = connectionType('User', 'users', () => User);

@ObjectType({ description: 'A program that acts: an agent, a pipeline. A user answers for it, and it expires.' })
export class ServiceAccount {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What people call it.' })
  name!: string;

  @Field(() => String, { description: 'Free text.' })
  description!: string;

  @Field(() => PrincipalStatusEnum, { description: 'Whether it may act.' })
  status!: PrincipalRow['status'];

  @Field(() => ID, { description: 'Id of the user who answers for it.' })
  ownerId!: string;

  @Field(() => DateTime, { description: 'It may do nothing from then on.' })
  expiresAt!: Date;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;

  @Field(() => [AccessChange], { nullable: true, description: accessChangesDescription })
  accessChanges?: readonly AccessChange[] | null;
}
export const ServiceAccountConnection = connectionType('ServiceAccount', 'service accounts', () => ServiceAccount);

@ObjectType({ description: 'A set of principals that grants can name.' })
export class Group {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'Unique among the groups.' })
  name!: string;

  @Field(() => String, { description: 'Free text.' })
  description!: string;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the SCIM directory that provisions it; null where it is managed here.',
  })
  directoryId!: string | null;

  @Field(() => Int, { description: 'Raised by each change, also of its members; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;

  @Field(() => [AccessChange], { nullable: true, description: accessChangesDescription })
  accessChanges?: readonly AccessChange[] | null;
}
export const GroupConnection = connectionType('Group', 'groups', () => Group);

@ObjectType({ description: 'A secret that identifies a principal. Only its digest is stored.' })
export class ApiKey {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What its holder calls it.' })
  name!: string;

  @Field(() => String, { description: 'The first characters of the key, to recognize it by.' })
  hint!: string;

  @Field(() => [ApiKeyScopeEnum], { description: 'What it opens.' })
  scopes!: ApiKeyScope[];

  @Field(() => [String], {
    nullable: true,
    description: 'The permissions it opens, of those its holder has; null for all.',
  })
  permissions!: string[] | null;

  @Field(() => [ID], { nullable: true, description: 'Ids of the servers it opens; null where they are not named.' })
  serverIds!: string[] | null;

  @Field(() => [String], { nullable: true, description: 'CIDRs it may be used from; null for anywhere.' })
  networks!: string[] | null;

  @Field(() => ID, { nullable: true, description: 'Id of the principal that made it; null for the bootstrap.' })
  issuedBy!: string | null;

  @Field(() => DateTime, { description: 'It is refused from then on.' })
  expiresAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'When it was revoked; null if it was not.' })
  revokedAt!: Date | null;

  @Field(() => DateTime, {
    nullable: true,
    description: 'When it was used last, at the API or on a node, to the minute; null if never.',
  })
  lastUsedAt!: Date | null;

  @Field(() => ID, { nullable: true, description: 'Id of the key that this one was rotated from.' })
  successorOf!: string | null;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;
}
export const ApiKeyConnection = connectionType('ApiKey', 'API keys', () => ApiKey);

@ObjectType({ description: 'A key that was just made.' })
export class IssuedApiKeyPayload {
  @Field(() => ApiKey, { description: 'The key as it is stored.' })
  apiKey!: ApiKey;

  @Field(() => String, {
    nullable: true,
    description:
      'The key itself, shown now and never again. Null on a dry run, a repeated create, and where the caller brought it.',
  })
  secret!: string | null;
}

@ObjectType({ description: 'What the bootstrap token made.' })
export class BootstrapPayload {
  @Field(() => ID, { description: 'Id of the user who answers for the service account.' })
  userId!: string;

  @Field(() => ID, { description: 'Id of the service account; it is owner.' })
  serviceAccountId!: string;

  @Field(() => ID, { description: 'Id of its key, which has the scope API.' })
  apiKeyId!: string;

  @Field(() => DateTime, { description: 'When account and key expire.' })
  expiresAt!: Date;

  @Field(() => String, { description: 'The key itself, shown now and never again.' })
  secret!: string;
}

@InputType({ description: 'Whom the bootstrap token makes.' })
export class BootstrapInput {
  @Field(() => String, { description: 'The bootstrap token, as configured or as logged at the first start.' })
  token!: string;

  @Field(() => String, { defaultValue: 'Administrator', description: 'Name of the first user.' })
  userName!: string;

  @Field(() => String, { nullable: true, description: 'E-mail address of the first user.' })
  userEmail?: string | null;

  @Field(() => String, { defaultValue: 'bootstrap', description: 'Name of the service account that becomes owner.' })
  serviceAccountName!: string;

  @Field(() => DateTime, { nullable: true, description: 'When account and key expire; in 90 days if absent.' })
  expiresAt?: Date | null;
}

@InputType({ description: 'A new local user.' })
export class CreateUserInput extends CreateInput {
  @Field(() => String, { description: 'What people call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => String, { nullable: true, description: 'Where to write to.' })
  email?: string | null;

  @Field(() => String, { nullable: true, description: 'Free text, at most 2000 characters.' })
  description?: string | null;
}

@InputType({ description: 'Changes to a user: absent fields keep their value.' })
export class UpdateUserInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'What people call it: 1 to 128 characters.' })
  name?: string | null;

  @Field(() => String, { nullable: true, description: 'Where to write to; null clears it.' })
  email?: string | null;

  @Field(() => String, { nullable: true, description: 'Free text, at most 2000 characters.' })
  description?: string | null;

  @Field(() => PrincipalStatusEnum, { nullable: true, description: 'Whether it may act.' })
  status?: PrincipalRow['status'] | null;
}

@InputType({ description: 'A user to delete, with its keys, memberships and grants.' })
export class DeleteUserInput extends ChangeInput {}

@InputType({ description: 'A new service account.' })
export class CreateServiceAccountInput extends CreateInput {
  @Field(() => String, { description: 'What people call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => String, { nullable: true, description: 'Free text, at most 2000 characters.' })
  description?: string | null;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the user who answers for it; if absent, the acting user, or the owner of the acting account.',
  })
  ownerId?: string | null;

  @Field(() => DateTime, { description: 'It may do nothing from then on; at most five years away.' })
  expiresAt!: Date;
}

@InputType({ description: 'Changes to a service account: absent fields keep their value.' })
export class UpdateServiceAccountInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'What people call it: 1 to 128 characters.' })
  name?: string | null;

  @Field(() => String, { nullable: true, description: 'Free text, at most 2000 characters.' })
  description?: string | null;

  @Field(() => PrincipalStatusEnum, { nullable: true, description: 'Whether it may act.' })
  status?: PrincipalRow['status'] | null;

  @Field(() => ID, { nullable: true, description: 'Id of the user who answers for it.' })
  ownerId?: string | null;

  @Field(() => DateTime, { nullable: true, description: 'It may do nothing from then on; at most five years away.' })
  expiresAt?: Date | null;
}

@InputType({ description: 'A service account to delete, with its keys, memberships and grants.' })
export class DeleteServiceAccountInput extends ChangeInput {}

@InputType({ description: 'A new group.' })
export class CreateGroupInput extends CreateInput {
  @Field(() => String, { description: 'Unique among the groups: 1 to 128 characters.' })
  name!: string;

  @Field(() => String, { nullable: true, description: 'Free text, at most 2000 characters.' })
  description?: string | null;
}

@InputType({ description: 'Changes to a group: absent fields keep their value.' })
export class UpdateGroupInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'Unique among the groups: 1 to 128 characters.' })
  name?: string | null;

  @Field(() => String, { nullable: true, description: 'Free text, at most 2000 characters.' })
  description?: string | null;
}

@InputType({ description: 'A group to delete, with the grants that name it.' })
export class DeleteGroupInput extends ChangeInput {}

@InputType({ description: 'Principals to add to or remove from a group.' })
export class GroupMembersInput extends ChangeInput {
  @Field(() => [ID], { description: 'Ids of users and service accounts, at most 500.' })
  principalIds!: string[];
}

@InputType({ description: 'Principals to add to and to remove from one group.' })
export class MembersChangeInput extends ReferenceInput {
  @Field(() => [ID], { nullable: true, description: 'Ids of those to add; those that belong already stay.' })
  add?: string[] | null;

  @Field(() => [ID], { nullable: true, description: 'Ids of those to remove; others are passed over.' })
  remove?: string[] | null;
}

@InputType({ description: 'Members of groups to change: all of them or, where one is refused, none.' })
export class ChangeGroupMembersInput extends MutationInput {
  @Field(() => [MembersChangeInput], {
    description: 'Each group once, with the ids of at most 500 principals over all of them.',
  })
  items!: MembersChangeInput[];
}

@ArgsType()
export class GroupsArguments extends SearchArguments {
  @Field(() => String, { nullable: true, description: 'Only the group with exactly this name.' })
  name?: string | null;
}

@ArgsType()
export class MembersArguments extends PageArguments {
  @Field(() => [ID], { nullable: true, description: 'Only those of these users and service accounts that belong.' })
  ids?: string[] | null;
}

@ArgsType()
export class UsersArguments extends SearchArguments {
  @Field(() => PrincipalStatusEnum, { nullable: true, description: 'Only those in this state.' })
  status?: PrincipalRow['status'] | null;
}

@ArgsType()
export class ServiceAccountsArguments extends UsersArguments {
  @Field(() => ID, { nullable: true, description: 'Only those for which this user answers.' })
  ownerId?: string | null;
}

@ArgsType()
export class ApiKeysArguments extends PageArguments {
  @Field(() => ID, { nullable: true, description: 'Only keys of this principal.' })
  principalId?: string | null;
}

@InputType({ description: 'A new API key.' })
export class CreateApiKeyInput extends CreateInput {
  @Field(() => ID, { description: 'Id of the user or service account it identifies.' })
  principalId!: string;

  @Field(() => String, { description: 'What its holder calls it: 1 to 128 characters.' })
  name!: string;

  @Field(() => [ApiKeyScopeEnum], { description: 'What it opens; at least one.' })
  scopes!: ApiKeyScope[];

  @Field(() => [String], {
    nullable: true,
    description: 'At the API it opens these permissions alone, as far as its holder has them; all if absent.',
  })
  permissions?: string[] | null;

  @Field(() => [ID], {
    nullable: true,
    description: 'Through nodes it opens these servers alone, 1 to 200, as far as its holder may use them.',
  })
  serverIds?: string[] | null;

  @Field(() => [LabelInput], {
    nullable: true,
    description: 'Through nodes it opens servers with all of these labels alone, as far as its holder may use them.',
  })
  serverLabels?: LabelInput[] | null;

  @Field(() => [String], {
    nullable: true,
    description: 'CIDRs it may be used from, 1 to 50, such as 10.0.0.0/8; from anywhere if absent.',
  })
  networks?: string[] | null;

  @Field(() => DateTime, { description: 'It is refused from then on; at most one year away.' })
  expiresAt!: Date;

  @Field(() => String, { nullable: true, description: `${broughtSecretDescription} The prefix is sp_.` })
  secret?: string | null;
}

@InputType({ description: 'A key to replace by a successor.' })
export class RotateApiKeyInput extends ChangeInput {
  @Field(() => DateTime, { description: 'The successor is refused from then on; at most one year away.' })
  expiresAt!: Date;

  @Field(() => Int, {
    nullable: true,
    description: 'How long the old key still works, in seconds: 0 to 30 days; one day if absent.',
  })
  overlapSeconds?: number | null;
}

@InputType({ description: 'A key to revoke now.' })
export class RevokeApiKeyInput extends ChangeInput {}
