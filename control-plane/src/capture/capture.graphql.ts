import type { PayloadOmission, PolicyDirection } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql';
import { connectionType, CreateInput, DateTime, graphqlEnum, PageArguments } from '../graphql-connection.ts';
import { PolicyDirectionEnum } from '../inspection/policy.graphql.ts';
import type { PayloadRow } from './capture.tables.ts';
import type { PayloadState } from './payload-store.service.ts';

export const PayloadStateEnum = graphqlEnum<PayloadState>('PayloadState', 'What has become of a captured payload.', {
  stored: 'It is kept.',
  omitted: 'Nothing but its size is kept; omission tells why.',
  erased: 'It was erased.',
  expired: 'Its retention is over.',
  pending: 'It is on its way.',
  lost: 'It did not come, and will not: its node was killed or lost its disk before it was stored.',
});

export const PayloadOmissionEnum = graphqlEnum<PayloadOmission>(
  'PayloadOmission',
  'Why nothing of a payload is kept.',
  {
    tooLarge: 'It has more bytes than the policy keeps.',
    notInspectable: 'It is no text, or nested too deeply, so that secrets in it could not be found.',
    notInspected: 'The detector of secrets failed, or had no time.',
    overloaded: 'The node had no memory for it.',
    noKey: 'The node has no key to seal it with.',
    spoolFull: 'The node had no room for it on its disk.',
  },
);

const fields = {
  direction: 'Which messages of the exchange.',
  policyId: 'The policy that had it captured.',
  state: 'What has become of it.',
  omission: 'Why nothing is kept; null where something is.',
  bytes: 'Of all messages, before secrets were taken out.',
  messages: 'How many messages are kept.',
  messagesOmitted: 'How many were left out at the end since there was no room for them.',
  redactions: 'How many values had something taken out: secrets, and bodies that are no text.',
  expiresAt: 'When it is deleted.',
} as const;

@ObjectType({ description: 'What has become of the captured messages of an exchange, in one direction.' })
export class AuditEventPayload {
  @Field(() => PolicyDirectionEnum, { description: fields.direction })
  direction!: PolicyDirection;

  @Field(() => ID, { description: fields.policyId })
  policyId!: string;

  @Field(() => PayloadStateEnum, { description: fields.state })
  state!: PayloadState;

  @Field(() => PayloadOmissionEnum, { nullable: true, description: fields.omission })
  omission!: PayloadOmission | null;

  @Field(() => Float, { nullable: true, description: `${fields.bytes} Null while nothing has come.` })
  bytes!: number | null;

  @Field(() => Int, { nullable: true, description: `${fields.messages} Null while nothing has come.` })
  messages!: number | null;

  @Field(() => Int, { nullable: true, description: `${fields.messagesOmitted} Null while nothing has come.` })
  messagesOmitted!: number | null;

  @Field(() => Int, { nullable: true, description: `${fields.redactions} Null while nothing has come.` })
  redactions!: number | null;

  @Field(() => DateTime, { nullable: true, description: `${fields.expiresAt} Null while nothing has come.` })
  expiresAt!: Date | null;
}

@ObjectType({ description: 'Captured messages of an exchange, in one direction; not what they say.' })
export class Payload {
  @Field(() => ID, { description: 'Id of the audit event.' })
  eventId!: string;

  @Field(() => PolicyDirectionEnum, { description: fields.direction })
  direction!: PolicyDirection;

  @Field(() => DateTime, { description: 'When the request was received.' })
  time!: Date;

  @Field(() => ID, { description: 'Id of the node that captured it.' })
  nodeId!: string;

  @Field(() => ID, { description: fields.policyId })
  policyId!: string;

  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => ID, { description: 'Who called.' })
  principalId!: string;

  @Field(() => String, { nullable: true, description: 'JSON-RPC method; null for a listening stream.' })
  method!: string | null;

  @Field(() => String, { nullable: true, description: 'Name or URI of what was called.' })
  targetName!: string | null;

  @Field(() => PayloadStateEnum, { description: fields.state })
  state!: PayloadRow['state'];

  @Field(() => PayloadOmissionEnum, { nullable: true, description: fields.omission })
  omission!: PayloadOmission | null;

  @Field(() => Float, { description: fields.bytes })
  bytes!: number;

  @Field(() => Int, { description: fields.messages })
  messages!: number;

  @Field(() => Int, { description: fields.messagesOmitted })
  messagesOmitted!: number;

  @Field(() => Int, { description: fields.redactions })
  redactions!: number;

  @Field(() => DateTime, { description: fields.expiresAt })
  expiresAt!: Date;
}

export const PayloadConnection = connectionType('Payload', 'captured payloads', () => Payload);

@ArgsType()
export class PayloadsArguments extends PageArguments {
  @Field(() => [ID], { nullable: true, description: 'Only those of these audit events; at most 200.' })
  eventIds?: string[] | null;

  @Field(() => ID, { nullable: true, description: 'Only those of exchanges of this user or service account.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only those that this policy had captured.' })
  policyId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only those of exchanges with this server.' })
  serverId?: string | null;

  @Field(() => DateTime, { nullable: true, description: 'Only those of exchanges from then on.' })
  from?: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'Only those of exchanges before.' })
  to?: Date | null;
}

@ArgsType()
export class ReadPayloadArguments extends PageArguments {
  @Field(() => ID, { description: 'Id of the audit event.' })
  id!: string;

  @Field(() => PolicyDirectionEnum, { description: fields.direction })
  direction!: PolicyDirection;

  @Field(() => String, { description: 'Why it is read, such as the number of a case; the audit trail keeps it.' })
  purpose!: string;
}

@ObjectType({ description: 'A payload that was opened.' })
export class PayloadContent {
  @Field(() => Payload, { description: 'Whose messages they are.' })
  payload!: PayloadRow;

  @Field(() => [String], {
    description: 'The messages of the page, in order, each as its JSON text; none where nothing is kept.',
  })
  messages!: readonly string[];

  @Field(() => String, { nullable: true, description: 'Cursor of the last message; null for an empty page.' })
  endCursor!: string | null;

  @Field(() => Boolean, { description: 'Whether there are more messages after this page.' })
  hasNextPage!: boolean;
}

@InputType({ description: 'Which payloads to erase: those of which all that is said is true.' })
export class ErasePayloadsInput extends CreateInput {
  @Field(() => [ID], { nullable: true, description: 'Those of these audit events; at most 200.' })
  eventIds?: string[] | null;

  @Field(() => ID, { nullable: true, description: 'Those of exchanges of this user or service account.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Those that this policy had captured.' })
  policyId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Those of exchanges with this server.' })
  serverId?: string | null;

  @Field(() => DateTime, { nullable: true, description: 'Those of exchanges from then on.' })
  from?: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'Those of exchanges before; now if never given.' })
  to?: Date | null;

  @Field(() => String, { description: 'Why; the audit trail keeps it.' })
  reason!: string;
}

@ObjectType({ description: 'An erasure. It counts for payloads of the same exchanges that come later, too.' })
export class ErasePayloadsPayload {
  @Field(() => ID, { description: 'Names it in the audit trail.' })
  id!: string;

  @Field(() => Int, { description: 'How many payloads were erased by it; 0 where an equal erasure was made before.' })
  count!: number;
}
