import type { AuditOutcome, GrantEffect } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, Int, ObjectType } from 'type-graphql';
import { connectionType, DateTime, graphqlEnum, Json, PageArguments } from '../graphql-connection.ts';
import { InspectionVerdict } from '../inspection/verdict.graphql.ts';
import type { AuditEventRow } from './audit.tables.ts';
import type { TrafficGroup } from './traffic-query.service.ts';

type Kind = AuditEventRow['kind'];
type DecisionEffect = GrantEffect | 'none';
type TargetKind = 'tool' | 'prompt' | 'resource';

export const AuditEventKindEnum = graphqlEnum<Kind>('AuditEventKind', 'What an audit event is about.', {
  exchange: 'A request of an MCP client to a node, answered or refused.',
  configuration: 'A change of the configuration.',
  access: 'A read that must be known, such as an export of the audit trail.',
});

export const AuditOutcomeEnum = graphqlEnum<AuditOutcome>('AuditOutcome', 'How an exchange ended.', {
  success: 'The upstream answered without an error; for a change: it was made.',
  error: 'The upstream answered with an error of its own.',
  refused: 'It was not forwarded: not authenticated, not allowed, or over a limit.',
  malformed: 'It was not forwarded: it was not a valid request.',
  upstreamFailure: 'The upstream did not answer, or not as the protocol demands.',
  aborted: 'The client went away before the end.',
  unknown: 'It was forwarded, and the node stopped before the end was recorded.',
});

export const AuditDecisionEnum = graphqlEnum<DecisionEffect>('AuditDecision', 'What was decided about an exchange.', {
  allow: 'A grant allowed it.',
  deny: 'It was denied: by a deny, or because no grant allowed it.',
  requireApproval: 'It needed an approval that it did not have.',
  none: 'It ended before a decision: not authenticated or malformed.',
});

export const AuditTargetKindEnum = graphqlEnum<TargetKind>('AuditTargetKind', 'What kind of thing a call names.', {
  tool: 'A tool.',
  prompt: 'A prompt.',
  resource: 'A resource, by its URI.',
});

export const TrafficGroupEnum = graphqlEnum<TrafficGroup>('TrafficGroup', 'What traffic is added up by.', {
  server: 'One row for each server.',
  target: 'One row for each tool, prompt and resource of a server, and one for what names none.',
});

@ObjectType({ description: 'Who called, or who made a change.' })
export class AuditPrincipal {
  @Field(() => ID, { description: 'Id of the user or service account; all zeros for the control plane itself.' })
  id!: string;

  @Field(() => String, { description: 'user, serviceAccount or system.' })
  kind!: string;

  @Field(() => String, { description: 'Its name at the time.' })
  name!: string;

  @Field(() => ID, { nullable: true, description: 'Id of the API key that was used.' })
  keyId!: string | null;

  @Field(() => String, { nullable: true, description: 'The OAuth client that used an access token of the principal.' })
  clientId!: string | null;

  @Field(() => String, { nullable: true, description: 'Id (jti) of the access token that was used.' })
  tokenId!: string | null;
}

@ObjectType({ description: 'The MCP client of an exchange, as far as it said.' })
export class AuditClient {
  @Field(() => String, { nullable: true, description: 'Network address the request came from.' })
  address!: string | null;

  @Field(() => String, { nullable: true, description: 'User-Agent header.' })
  userAgent!: string | null;

  @Field(() => String, { nullable: true, description: 'Name and version as the client calls itself.' })
  info!: string | null;
}

@ObjectType({ description: 'What the server of an exchange was called with; never the secret.' })
export class AuditCredential {
  @Field(() => ID, { nullable: true, description: 'Id of what is stored for the server, or of the connected account.' })
  id!: string | null;

  @Field(() => String, { description: 'How the gateway proved itself, such as staticHeaders or userOAuth.' })
  mode!: string;

  @Field(() => String, { nullable: true, description: 'The authorization server that issued the token.' })
  issuer!: string | null;
}

@ObjectType({ description: 'The server an exchange was for.' })
export class AuditServer {
  @Field(() => ID, { nullable: true, description: 'Id of the server; null where none has this slug.' })
  id!: string | null;

  @Field(() => String, { description: 'The slug that was asked for.' })
  slug!: string;
}

@ObjectType({ description: 'What a call names.' })
export class AuditTarget {
  @Field(() => AuditTargetKindEnum, { description: 'What kind of thing it is.' })
  kind!: TargetKind;

  @Field(() => String, { description: 'Its name or URI. What cannot be shown is written as \\u0000.' })
  name!: string;
}

@ObjectType({ description: 'What would have been decided, had grants in shadow mode been in force.' })
export class AuditShadowDecision {
  @Field(() => AuditDecisionEnum, { description: 'What would have been decided.' })
  effect!: DecisionEffect;

  @Field(() => [ID], { description: 'Ids of the grants in shadow mode that matched.' })
  grantIds!: readonly string[];
}

@ObjectType({ description: 'What was decided, and by what.' })
export class AuditDecisionRecord {
  @Field(() => AuditDecisionEnum, { description: 'What was decided.' })
  effect!: DecisionEffect;

  @Field(() => String, { description: 'Why, as a reason of the decision or an error code.' })
  reason!: string;

  @Field(() => [ID], { description: 'Ids of the grants that matched.' })
  grantIds!: string[];

  @Field(() => AuditShadowDecision, {
    nullable: true,
    description: 'Set where grants in shadow mode matched; lists tell nothing here.',
  })
  shadow!: AuditShadowDecision | null;
}

@ObjectType({ description: 'What was changed or read in the control plane.' })
export class AuditObject {
  @Field(() => String, { description: 'Kind of the object, for example grant.' })
  kind!: string;

  @Field(() => ID, { description: 'Id of the object.' })
  id!: string;
}

@ObjectType({ description: 'One thing that happened: an exchange, a change, or a read that must be known.' })
export class AuditEvent {
  @Field(() => ID, { description: 'Unique.' })
  id!: string;

  @Field(() => AuditEventKindEnum, { description: 'What it is about.' })
  kind!: Kind;

  @Field(() => DateTime, { description: 'When the request was received, or the change was made.' })
  time!: Date;

  @Field(() => ID, { nullable: true, description: 'Id of the node that recorded it; null for the control plane.' })
  nodeId!: string | null;

  @Field(() => ID, { nullable: true, description: 'Id of the start of that node that recorded it.' })
  epoch!: string | null;

  @Field(() => AuditPrincipal, { nullable: true, description: 'Who did it; null where authentication failed.' })
  principal!: AuditPrincipal | null;

  @Field(() => AuditClient, { nullable: true, description: 'The client of an exchange.' })
  client!: AuditClient | null;

  @Field(() => AuditServer, { nullable: true, description: 'The server of an exchange.' })
  server!: AuditServer | null;

  @Field(() => String, { nullable: true, description: 'HTTP method of an exchange; null where it was no valid HTTP.' })
  httpMethod!: string | null;

  @Field(() => String, { nullable: true, description: 'JSON-RPC method; null where the body was not understood.' })
  method!: string | null;

  @Field(() => AuditTarget, { nullable: true, description: 'What a call names.' })
  target!: AuditTarget | null;

  @Field(() => String, { nullable: true, description: 'MCP protocol revision of the request.' })
  protocolRevision!: string | null;

  @Field(() => AuditDecisionRecord, { nullable: true, description: 'What was decided about an exchange.' })
  decision!: AuditDecisionRecord | null;

  @Field(() => ID, { nullable: true, description: 'History of the configuration it was decided by.' })
  historyId!: string | null;

  @Field(() => Float, { nullable: true, description: 'Revision of the configuration it was decided by.' })
  configRevision!: number | null;

  @Field(() => String, { nullable: true, description: 'SHA-256 of the parameters as sent, hex.' })
  paramsDigest!: string | null;

  @Field(() => Float, { nullable: true, description: 'Size of the request body in bytes.' })
  requestBytes!: number | null;

  @Field(() => String, { nullable: true, description: 'Trace id (W3C).' })
  traceId!: string | null;

  @Field(() => AuditOutcomeEnum, { nullable: true, description: 'How it ended; null while it goes on.' })
  outcome!: AuditOutcome | null;

  @Field(() => Int, { nullable: true, description: 'HTTP status that was sent; null if the client went away before.' })
  status!: number | null;

  @Field(() => Float, { nullable: true, description: 'JSON-RPC error code of the answer.' })
  rpcErrorCode!: number | null;

  @Field(() => String, { nullable: true, description: 'Our error code, where the failure is ours to name.' })
  errorCode!: string | null;

  @Field(() => Float, { nullable: true, description: 'Size of the response body in bytes.' })
  responseBytes!: number | null;

  @Field(() => Float, { nullable: true, description: 'Milliseconds from receipt to the last byte of the answer.' })
  durationMs!: number | null;

  @Field(() => Float, { nullable: true, description: 'Milliseconds from receipt to the first byte of the answer.' })
  firstByteMs!: number | null;

  @Field(() => Float, { nullable: true, description: 'Milliseconds spent waiting for the first byte of the upstream.' })
  upstreamMs!: number | null;

  @Field(() => [String], {
    nullable: true,
    description:
      'Where the exchange was translated between protocol eras: what it caused upstream, by method, in order; at most 32. Null where it passed as it came.',
  })
  upstreamRequests!: string[] | null;

  @Field(() => [InspectionVerdict], {
    nullable: true,
    description: 'What policies said of the messages; at most 64 kinds. Null where none said anything.',
  })
  verdicts!: InspectionVerdict[] | null;

  @Field(() => String, { nullable: true, description: 'What was done, for example grant.create.' })
  action!: string | null;

  @Field(() => AuditObject, { nullable: true, description: 'What it was done to.' })
  object!: AuditObject | null;

  @Field(() => Json, { nullable: true, description: 'The object before the change, without secrets.' })
  before!: unknown;

  @Field(() => Json, { nullable: true, description: 'The object after the change, without secrets.' })
  after!: unknown;
}

export const AuditEventConnection = connectionType('AuditEvent', 'audit events', () => AuditEvent);

@ArgsType()
export class AuditEventFilterArguments {
  @Field(() => DateTime, { nullable: true, description: 'Only events from then on.' })
  from?: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'Only events before.' })
  to?: Date | null;

  @Field(() => AuditEventKindEnum, { nullable: true, description: 'Only events of this kind.' })
  kind?: Kind | null;

  @Field(() => ID, { nullable: true, description: 'Only what this user or service account did.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only exchanges with this server.' })
  serverId?: string | null;

  @Field(() => String, { nullable: true, description: 'Only exchanges that asked for this slug.' })
  serverSlug?: string | null;

  @Field(() => String, { nullable: true, description: 'Only calls of this tool, prompt or resource.' })
  targetName?: string | null;

  @Field(() => String, { nullable: true, description: 'Only calls of what has a name or URI that begins so.' })
  targetPrefix?: string | null;

  @Field(() => AuditDecisionEnum, { nullable: true, description: 'Only exchanges so decided.' })
  decision?: DecisionEffect | null;

  @Field(() => [AuditOutcomeEnum], { nullable: true, description: 'Only events that ended in one of these ways.' })
  outcomes?: AuditOutcome[] | null;

  @Field(() => ID, { nullable: true, description: 'Only exchanges of this node.' })
  nodeId?: string | null;

  @Field(() => String, { nullable: true, description: 'Only methods that contain this text, in any case.' })
  method?: string | null;

  @Field(() => String, { nullable: true, description: 'Only changes and reads of this action.' })
  action?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only changes and reads of the object with this id.' })
  objectId?: string | null;
}

@ArgsType()
export class AuditEventsArguments extends AuditEventFilterArguments implements PageArguments {
  @Field(() => Int, { nullable: true, description: 'How many to return: 1 to 200; 50 if not given.' })
  first?: number | null;

  @Field(() => String, { nullable: true, description: 'Return what comes after this cursor.' })
  after?: string | null;
}

@ObjectType({ description: 'Traffic of a server, or of one tool, prompt or resource of it, over a time range.' })
export class Traffic {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => String, { description: 'Slug of the server.' })
  serverSlug!: string;

  @Field(() => AuditTargetKindEnum, { nullable: true, description: 'What kind of thing was called.' })
  targetKind!: TargetKind | null;

  @Field(() => String, { nullable: true, description: 'Name or URI of what was called.' })
  targetName!: string | null;

  @Field(() => Float, { description: 'Requests, the refused ones included. Listening streams are not counted.' })
  calls!: number;

  @Field(() => Float, { description: 'Requests that were not forwarded: refused or malformed.' })
  refused!: number;

  @Field(() => Float, { nullable: true, description: 'Share of forwarded calls that succeeded, 0 to 1.' })
  successRate!: number | null;

  @Field(() => Float, { nullable: true, description: 'Mean duration of forwarded calls, in milliseconds.' })
  durationMsMean!: number | null;

  @Field(() => Float, {
    nullable: true,
    description: 'Median duration of forwarded calls in milliseconds, within 1 %.',
  })
  durationMsP50!: number | null;

  @Field(() => Float, { nullable: true, description: '95th percentile of the duration in milliseconds, within 1 %.' })
  durationMsP95!: number | null;

  @Field(() => Float, { nullable: true, description: '99th percentile of the duration in milliseconds, within 1 %.' })
  durationMsP99!: number | null;
}

@ArgsType()
export class TrafficArguments {
  @Field(() => DateTime, { description: 'From then on, to the minute.' })
  from!: Date;

  @Field(() => DateTime, {
    description:
      'Before; at most 31 days after from, and 1 day by target where neither serverId nor targetName is given.',
  })
  to!: Date;

  @Field(() => TrafficGroupEnum, { defaultValue: 'server', description: 'What to add up by.' })
  groupBy!: TrafficGroup;

  @Field(() => ID, { nullable: true, description: 'Only this server.' })
  serverId?: string | null;

  @Field(() => String, { nullable: true, description: 'Only this tool, prompt or resource.' })
  targetName?: string | null;
}
