import {
  type WebhookAlgorithm,
  type WebhookContent,
  webhookDeadlineMsDefault,
  type WebhookEvent,
  type WebhookFailMode,
  type WebhookMode,
  webhookPayloadBytesDefault,
} from '@sallyport/schema';
import { ArgsType, Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql';
import {
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  graphqlEnum,
  SearchArguments,
} from '../graphql-connection.ts';
import type { AuditDeliveryRow } from '../audit/delivery.service.ts';
import type { StoredSigningKey } from './inspection.tables.ts';

export const WebhookModeEnum = graphqlEnum<WebhookMode>('WebhookMode', 'Whether what a webhook says counts.', {
  enforce: 'It counts where the policy that names it acts.',
  shadow: 'It is asked, and the audit trail alone tells what it said.',
  off: 'It is not asked.',
});

export const WebhookEventEnum = graphqlEnum<WebhookEvent>('WebhookEvent', 'What a webhook is asked about or told of.', {
  request: 'Messages from clients to servers, of the policies that name it.',
  response: 'Messages from servers to clients, of the policies that name it.',
  definition:
    'Definitions of servers, when they are new or changed, of the policies that name it: asked before any may be approved.',
  auditBatch: 'Told of all audit events, in batches, unless it is off; whoever sets it up needs audit:read.',
});

export const WebhookFailModeEnum = graphqlEnum<WebhookFailMode>(
  'WebhookFailMode',
  'What becomes of a message about which a webhook gave no valid verdict.',
  { closed: 'It does not go on.', open: 'It goes on, which the audit trail tells each time.' },
);

export const WebhookContentEnum = graphqlEnum<WebhookContent>('WebhookContent', 'What a webhook gets of a message.', {
  full: 'All of it.',
  redacted: 'It without the secrets and personal data that the detectors find.',
  digest: 'Its digest and size alone.',
});

export const WebhookAlgorithmEnum = graphqlEnum<WebhookAlgorithm>(
  'WebhookAlgorithm',
  'How what is sent is signed (Standard Webhooks).',
  { hmac: 'HMAC-SHA256 by a shared secret, v1.', ed25519: 'Ed25519 by a private key that nobody else has, v1a.' },
);

const fields = {
  name: 'What administrators call it; need not be unique.',
  description: 'Why it exists.',
  url: 'Where events are posted; https, or http to the machine itself. Nodes dial it under their egress rules.',
  mode: 'Whether what it says counts; SHADOW if never given.',
  events: 'What it is asked about or told of; at least one.',
  failMode: 'What becomes of a message about which it gave no valid verdict; CLOSED if never given.',
  content: 'What it gets of messages; REDACTED if never given.',
  deadlineMs: `How long it is waited for, milliseconds: 50 to 10000; ${webhookDeadlineMsDefault} if never given.`,
  payloadBytesMax: `Messages of more bytes are a failure: 1024 to 4194304; ${webhookPayloadBytesDefault} if never given.`,
  mutablePaths:
    'JSON pointers at or below which it may change a message: /params/arguments, /result/content, ' +
    '/result/structuredContent, /result/messages, /result/contents. None: it may not.',
  interceptor:
    'Of an MCP server of interceptors (SEP-2624) at the URL, the name of the one that is invoked. Absent: the URL takes ' +
    'the events of this gateway. Whether it is one or the other is permanent.',
  algorithm: 'How what is sent is signed; HMAC if not given.',
  secret: 'A secret of the caller’s own, whsec_ and 24 to 64 bytes in base64; for HMAC. Absent: one is made.',
} as const;

@ObjectType({ description: 'A key that signs what goes to a webhook.' })
export class WebhookSigningKey {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { nullable: true, description: 'The public key, whpk_…, of an Ed25519 key; null for HMAC.' })
  publicKey!: string | null;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'It signs nothing from then on; null where no end is set.' })
  notAfter!: Date | null;

  static of({ id, publicKey, createdAt, notAfter }: StoredSigningKey): WebhookSigningKey {
    return { id, publicKey, createdAt: new Date(createdAt), notAfter: notAfter === null ? null : new Date(notAfter) };
  }
}

export const AuditDeliveryStateEnum = graphqlEnum<AuditDeliveryRow['state']>(
  'AuditDeliveryState',
  'Whether audit events are sent.',
  { active: 'They are, or are tried again.', stopped: 'Nothing was taken for 72 hours: restartAuditDelivery goes on.' },
);

@ObjectType({ description: 'How far the events of one chain of the audit trail were taken.' })
export class AuditCursor {
  @Field(() => String, { description: 'Whose chain it is: id of a node, or control-plane.' })
  nodeId!: string;

  @Field(() => String, { description: 'Which start of that process.' })
  epoch!: string;

  @Field(() => Float, { description: 'The last line that was taken.' })
  sequence!: number;

  @Field(() => DateTime, { description: 'When it moved last.' })
  movedAt!: Date;
}

@ObjectType({ description: 'How the delivery of audit events to a webhook stands.' })
export class AuditDelivery {
  @Field(() => AuditDeliveryStateEnum, { description: 'Whether they are sent.' })
  state!: AuditDeliveryRow['state'];

  @Field(() => ID, { description: 'Who set it up last; nothing is sent while this one may not read the audit trail.' })
  readerId!: string;

  @Field(() => Float, { description: 'Lines of the audit trail that were taken, with those that were sent again.' })
  eventsDelivered!: number;

  @Field(() => DateTime, { nullable: true, description: 'When a batch was taken last.' })
  deliveredAt!: Date | null;

  @Field(() => Int, { description: 'Failures since then.' })
  attempts!: number;

  @Field(() => DateTime, { nullable: true, description: 'Since when nothing is taken; null where all is well.' })
  failingSince!: Date | null;

  @Field(() => String, {
    nullable: true,
    description: 'Why the last attempt failed, such as timeout, status, readerNotPermitted or webhookUnusable.',
  })
  failure!: string | null;

  @Field(() => DateTime, { description: 'Nothing is tried before.' })
  nextAttemptAt!: Date;
}

@InputType({ description: 'A webhook whose audit events are to be sent again, or further. A dry run sends nothing.' })
export class RestartAuditDeliveryInput extends ChangeInput {
  @Field(() => DateTime, {
    nullable: true,
    description: 'Send again what was written from then on. Absent: go on where it stands.',
  })
  from?: Date | null;
}

@ObjectType({ description: 'Who is asked about messages outside of the gateway.' })
export class Webhook {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: fields.name })
  name!: string;

  @Field(() => String, { description: fields.description })
  description!: string;

  @Field(() => String, { description: fields.url })
  url!: string;

  @Field(() => WebhookModeEnum, { description: fields.mode })
  mode!: WebhookMode;

  @Field(() => [WebhookEventEnum], { description: fields.events })
  events!: WebhookEvent[];

  @Field(() => WebhookFailModeEnum, { description: fields.failMode })
  failMode!: WebhookFailMode;

  @Field(() => WebhookContentEnum, { description: fields.content })
  content!: WebhookContent;

  @Field(() => Int, { description: fields.deadlineMs })
  deadlineMs!: number;

  @Field(() => Int, { description: fields.payloadBytesMax })
  payloadBytesMax!: number;

  @Field(() => [String], { description: fields.mutablePaths })
  mutablePaths!: string[];

  @Field(() => String, { nullable: true, description: fields.interceptor })
  interceptor!: string | null;

  @Field(() => WebhookAlgorithmEnum, { description: 'How what is sent is signed; permanent.' })
  algorithm!: WebhookAlgorithm;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision. Verdicts name it.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}

export const WebhookConnection = connectionType('Webhook', 'webhooks', () => Webhook);

@ObjectType({ description: 'A webhook whose signing key was just made.' })
export class IssuedWebhookPayload {
  @Field(() => Webhook, { description: 'The webhook.' })
  webhook!: Webhook;

  @Field(() => String, {
    nullable: true,
    description:
      'The secret, shown now and never again. Null on a dry run, a repeated create, for Ed25519, and where the caller brought it.',
  })
  secret!: string | null;
}

@ArgsType()
export class WebhooksArguments extends SearchArguments {
  @Field(() => [ID], { nullable: true, description: 'Only those of these webhooks that exist.' })
  ids?: string[] | null;

  @Field(() => WebhookModeEnum, { nullable: true, description: 'Only webhooks in this mode.' })
  mode?: WebhookMode | null;
}

@InputType({ description: 'A webhook to make.' })
export class CreateWebhookInput extends CreateInput {
  @Field(() => String, { description: fields.name })
  name!: string;

  @Field(() => String, { nullable: true, description: fields.description })
  description?: string | null;

  @Field(() => String, { description: fields.url })
  url!: string;

  @Field(() => WebhookModeEnum, { nullable: true, description: fields.mode })
  mode?: WebhookMode | null;

  @Field(() => [WebhookEventEnum], { description: fields.events })
  events!: WebhookEvent[];

  @Field(() => WebhookFailModeEnum, { nullable: true, description: fields.failMode })
  failMode?: WebhookFailMode | null;

  @Field(() => WebhookContentEnum, { nullable: true, description: fields.content })
  content?: WebhookContent | null;

  @Field(() => Int, { nullable: true, description: fields.deadlineMs })
  deadlineMs?: number | null;

  @Field(() => Int, { nullable: true, description: fields.payloadBytesMax })
  payloadBytesMax?: number | null;

  @Field(() => [String], { nullable: true, description: fields.mutablePaths })
  mutablePaths?: string[] | null;

  @Field(() => String, { nullable: true, description: fields.interceptor })
  interceptor?: string | null;

  @Field(() => WebhookAlgorithmEnum, { nullable: true, description: fields.algorithm })
  algorithm?: WebhookAlgorithm | null;

  @Field(() => String, { nullable: true, description: fields.secret })
  secret?: string | null;
}

@InputType({ description: 'Changes to a webhook; absent fields keep their value. Lists are replaced as a whole.' })
export class UpdateWebhookInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: fields.name })
  name?: string | null;

  @Field(() => String, { nullable: true, description: fields.description })
  description?: string | null;

  @Field(() => String, { nullable: true, description: fields.url })
  url?: string | null;

  @Field(() => WebhookModeEnum, { nullable: true, description: fields.mode })
  mode?: WebhookMode | null;

  @Field(() => [WebhookEventEnum], { nullable: true, description: fields.events })
  events?: WebhookEvent[] | null;

  @Field(() => WebhookFailModeEnum, { nullable: true, description: fields.failMode })
  failMode?: WebhookFailMode | null;

  @Field(() => WebhookContentEnum, { nullable: true, description: fields.content })
  content?: WebhookContent | null;

  @Field(() => Int, { nullable: true, description: fields.deadlineMs })
  deadlineMs?: number | null;

  @Field(() => Int, { nullable: true, description: fields.payloadBytesMax })
  payloadBytesMax?: number | null;

  @Field(() => [String], { nullable: true, description: fields.mutablePaths })
  mutablePaths?: string[] | null;

  @Field(() => String, { nullable: true, description: fields.interceptor })
  interceptor?: string | null;
}

@InputType({ description: 'A webhook to delete; no policy may name it.' })
export class DeleteWebhookInput extends ChangeInput {}

@InputType({ description: 'A webhook that gets another signing key.' })
export class RotateWebhookKeyInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: fields.secret })
  secret?: string | null;

  @Field(() => Int, {
    nullable: true,
    description: 'How long the keys before sign beside it, in seconds: 0 to 30 days; one day if absent.',
  })
  overlapSeconds?: number | null;
}

@InputType({ description: 'A webhook to send a sample to. A dry run sends nothing and says what would be sent.' })
export class TestWebhookInput extends ChangeInput {
  @Field(() => WebhookEventEnum, {
    nullable: true,
    description: 'What the sample is about; its first event if absent.',
  })
  event?: WebhookEvent | null;
}

@ObjectType({ description: 'What came of a sample.' })
export class WebhookTrial {
  @Field(() => WebhookEventEnum, { description: 'What the sample was about.' })
  event!: WebhookEvent;

  @Field(() => String, { description: 'What was sent, word by word.' })
  sent!: string;

  @Field(() => String, {
    nullable: true,
    description: 'Why the answer would not count, such as timeout; null where it would.',
  })
  failure!: string | null;

  @Field(() => Int, {
    nullable: true,
    description: 'The HTTP status; null where there was no answer, and on a dry run.',
  })
  status!: number | null;

  @Field(() => String, { nullable: true, description: 'allow, deny or modify; null where there was no verdict.' })
  decision!: string | null;

  @Field(() => String, { nullable: true, description: 'The reason it gave.' })
  reasonCode!: string | null;

  @Field(() => Float, { description: 'Milliseconds that it took.' })
  durationMs!: number;
}
