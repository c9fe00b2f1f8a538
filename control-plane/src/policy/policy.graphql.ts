import type { DefinitionKind, GrantEffect, GrantMode, GrantPart, Match, TargetKind } from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { EffectEnum, GrantModeEnum } from '../access/access.graphql.ts';
import { Grant } from '../access/grant.graphql.ts';
import { AuditShadowDecision, AuditTargetKindEnum } from '../audit/audit.graphql.ts';
import { DefinitionKindEnum } from '../catalog/catalog.graphql.ts';
import { connectionType, DateTime, graphqlEnum, Json, PageArguments } from '../graphql-connection.ts';
import { Principal } from '../identity/identity.graphql.ts';

export const MatchEnum = graphqlEnum<Match>('Match', 'What a grant comes to for a request.', {
  yes: 'Every part of it matches.',
  no: 'Some part does not match.',
  unknown: 'A condition failed, or a label is missing: it opens nothing, and denies if it is a deny.',
});

export const GrantPartEnum = graphqlEnum<GrantPart>(
  'GrantPart',
  'A part of a grant, in the order they are looked at.',
  {
    subject: 'It is for somebody else.',
    selector: 'It selects other tools, prompts or resources.',
    window: 'It has not begun, or has ended.',
    staleness: 'The node has been without the control plane for too long.',
    limits: 'The labels of the tool are beyond its limits, or nobody has given it any.',
    when: 'Its condition `when` is not met, or failed.',
    whenArguments: 'Its condition `whenArguments` is not met, or failed.',
  },
);

@InputType({ description: 'The client of a call, as conditions see it.' })
export class ExplainClientInput {
  @Field(() => String, { nullable: true, description: 'Name, as it says of itself.' })
  name?: string | null;

  @Field(() => String, { nullable: true, description: 'Version, as it says of itself.' })
  version?: string | null;

  @Field(() => String, { nullable: true, description: 'Network address.' })
  address?: string | null;
}

@InputType({ description: 'A request to explain.' })
export class ExplainAccessInput {
  @Field(() => ID, { description: 'Id of the user or service account that calls.' })
  principalId!: string;

  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => AuditTargetKindEnum, { description: 'What kind of thing the call names.' })
  kind!: TargetKind;

  @Field(() => String, { description: 'Name of the tool or prompt; URI of the resource or its template.' })
  name!: string;

  @Field(() => Json, { nullable: true, description: 'Arguments of the call, an object; absent for none.' })
  arguments?: unknown;

  @Field(() => ExplainClientInput, { nullable: true, description: 'The client; what is absent is unknown.' })
  client?: ExplainClientInput | null;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the API key of the principal that the call is made with: its limits count then. Any if absent.',
  })
  apiKeyId?: string | null;

  @Field(() => DateTime, { nullable: true, description: 'When the call is made; now if absent.' })
  at?: Date | null;
}

@ObjectType({ description: 'What one grant comes to for a request.' })
export class GrantExplanation {
  @Field(() => ID, { description: 'Id of the grant.' })
  grantId!: string;

  @Field(() => Grant, { description: 'The grant itself.' })
  grant!: Grant;

  @Field(() => EffectEnum, { description: 'What the grant does.' })
  effect!: GrantEffect;

  @Field(() => GrantModeEnum, { description: 'Whether it is in force.' })
  mode!: GrantMode;

  @Field(() => MatchEnum, { description: 'What it comes to.' })
  match!: Match;

  @Field(() => GrantPartEnum, { nullable: true, description: 'The part that failed; null where all match.' })
  failed!: GrantPart | null;
}

@ObjectType({ description: 'What a node decides about a request, and why.' })
export class AccessExplanation {
  @Field(() => EffectEnum, { description: 'What is decided.' })
  effect!: GrantEffect;

  @Field(() => String, {
    description:
      'Why: a reason as in audit events, or SERVER_NOT_SERVED, SERVER_NOT_PUBLISHED; of a key KEY_ENDED, KEY_SCOPE, ' +
      'KEY_NETWORK.',
  })
  reason!: string;

  @Field(() => [ID], { description: 'Ids of the grants that decide.' })
  grantIds!: readonly string[];

  @Field(() => AuditShadowDecision, { nullable: true, description: 'What it would be with shadow grants in force.' })
  shadow!: AuditShadowDecision | null;

  @Field(() => [GrantExplanation], {
    description: 'Grants on the server: those that match, then those that came farthest. At most 200.',
  })
  grants!: readonly GrantExplanation[];

  @Field(() => Int, { description: 'How many further grants on the server are not told.' })
  omitted!: number;
}

@ArgsType()
export class PrincipalAccessArguments extends PageArguments {
  @Field(() => ID, { description: 'Id of the user or service account.' })
  principalId!: string;

  @Field(() => ID, { nullable: true, description: 'Only on this server.' })
  serverId?: string | null;
}

@ArgsType()
export class TargetAccessArguments extends PageArguments {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => AuditTargetKindEnum, { description: 'What kind of thing it is.' })
  kind!: TargetKind;

  @Field(() => String, { description: 'Name of the tool or prompt; URI of the resource or its template.' })
  name!: string;
}

@ObjectType({ description: 'Something that a principal may use.' })
export class UsableTarget {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => String, { description: 'Slug of the server.' })
  slug!: string;

  @Field(() => DefinitionKindEnum, { description: 'What it is.' })
  kind!: DefinitionKind;

  @Field(() => String, { description: 'Its name, URI or URI template.' })
  name!: string;

  @Field(() => EffectEnum, { description: 'ALLOW, or REQUIRE_APPROVAL.' })
  effect!: GrantEffect;

  @Field(() => Boolean, { description: 'Whether a condition has a say, so that not every call may.' })
  isConditional!: boolean;

  @Field(() => [ID], { description: 'Ids of the grants that decide.' })
  grantIds!: readonly string[];
}
export const UsableTargetConnection = connectionType('UsableTarget', 'usable things', () => UsableTarget);

@ObjectType({ description: 'Somebody who may use something.' })
export class TargetUser {
  @Field(() => ID, { description: 'Id of the principal.' })
  principalId!: string;

  @Field(() => Principal, { description: 'The principal.' })
  principal!: Principal;

  @Field(() => EffectEnum, { description: 'ALLOW, or REQUIRE_APPROVAL.' })
  effect!: GrantEffect;

  @Field(() => Boolean, { description: 'Whether a condition has a say, so that not every call may.' })
  isConditional!: boolean;

  @Field(() => [ID], { description: 'Ids of the grants that decide.' })
  grantIds!: readonly string[];

  @Field(() => [Grant], { description: 'The grants that decide: whom they are for says why.' })
  grants!: readonly Grant[];
}
export const TargetUserConnection = connectionType('TargetUser', 'principals', () => TargetUser);
