import { Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { ChangeInput, connectionType, CreateInput, DateTime } from '../../graphql-connection.ts';

@ObjectType({ description: 'A bearer token by which a directory pushes users and groups. Only its digest is stored.' })
export class ScimToken {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { description: 'Id of the directory it speaks for.' })
  directoryId!: string;

  @Field(() => String, { description: 'What people call it.' })
  name!: string;

  @Field(() => String, { description: 'The first characters of the token, to recognize it by.' })
  hint!: string;

  @Field(() => DateTime, { description: 'It is refused from then on.' })
  expiresAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'When it was revoked; null if it was not.' })
  revokedAt!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'When it was used last, to the minute; null if never.' })
  lastUsedAt!: Date | null;

  @Field(() => ID, { nullable: true, description: 'Id of the token that this one was rotated from.' })
  successorOf!: string | null;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;
}

@ObjectType({ description: 'What pushes the users and groups of one identity provider by SCIM 2.0.' })
export class ScimDirectory {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'Unique among the directories.' })
  name!: string;

  @Field(() => String, {
    description: 'Issuer of the identity provider: whom the directory names by externalId logs in there by this id.',
  })
  issuer!: string;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}
export const ScimDirectoryConnection = connectionType('ScimDirectory', 'directories', () => ScimDirectory);

@ObjectType({ description: 'A token that was just made.' })
export class IssuedScimTokenPayload {
  @Field(() => ScimToken, { description: 'The token as it is stored.' })
  scimToken!: ScimToken;

  @Field(() => String, {
    nullable: true,
    description:
      'The token itself, shown now and never again. Null on a dry run, a repeated create, and where the caller brought it.',
  })
  secret!: string | null;
}

@InputType({ description: 'A directory to let in.' })
export class CreateScimDirectoryInput extends CreateInput {
  @Field(() => String, { description: 'Unique among the directories: 1 to 128 characters.' })
  name!: string;

  @Field(() => String, {
    description: 'Issuer of its identity provider, byte for byte as in iss of its tokens. Cannot be changed later.',
  })
  issuer!: string;
}

@InputType({ description: 'Changes to a directory: absent fields keep their value.' })
export class UpdateScimDirectoryInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: 'Unique among the directories: 1 to 128 characters.' })
  name?: string | null;
}

@InputType({ description: 'A directory to part from: its users and groups stay and are managed here from then on.' })
export class DeleteScimDirectoryInput extends ChangeInput {}

@InputType({ description: 'A new token of a directory.' })
export class CreateScimTokenInput extends CreateInput {
  @Field(() => ID, { description: 'Id of the directory.' })
  directoryId!: string;

  @Field(() => String, { description: 'What people call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => DateTime, { description: 'It is refused from then on; at most one year away.' })
  expiresAt!: Date;

  @Field(() => String, {
    nullable: true,
    description:
      'The token itself, brought along: spscim_ and 43 to 96 random letters, digits, - or _. It is not shown again. One is ' +
      'made if absent.',
  })
  secret?: string | null;
}

@InputType({ description: 'A token to replace by a successor.' })
export class RotateScimTokenInput extends ChangeInput {
  @Field(() => DateTime, { description: 'The successor is refused from then on; at most one year away.' })
  expiresAt!: Date;

  @Field(() => Int, {
    nullable: true,
    description: 'How long the old token still works, in seconds: 0 to 30 days; one day if absent.',
  })
  overlapSeconds?: number | null;
}

@InputType({ description: 'A token to revoke now.' })
export class RevokeScimTokenInput extends ChangeInput {}
