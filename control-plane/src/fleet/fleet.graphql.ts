import type { ConfigProblem, NodeLoad as Load } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql';
import {
  broughtSecretDescription,
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  graphqlEnum,
  Json,
  MutationInput,
} from '../graphql-connection.ts';
import type { NodeStatus } from './node.service.ts';

export const NodeStatusEnum = graphqlEnum<NodeStatus>('NodeStatus', 'How a node stands to the newest configuration.', {
  live: 'In contact within the last 5 seconds, and running the newest configuration.',
  unconverged: 'Out of contact, or running another configuration than the newest.',
  gone: 'Unseen for 60 seconds, or it said goodbye; no longer counted.',
});

const SealingKeyUseEnum = graphqlEnum<'open' | 'seal'>('SealingKeyUse', 'What nodes do with a key.', {
  open: 'They open what it sealed.',
  seal: 'They seal with it, and open.',
});

@ObjectType({ description: 'One thing a node could not accept of a configuration.' })
export class NodeProblem implements ConfigProblem {
  @Field(() => String, { description: 'Key of the document, such as "server/<id>", or "manifest".' })
  document!: string;

  @Field(() => String, { description: 'Path into the document; empty for the whole of it.' })
  path!: string;

  @Field(() => String, { description: 'What is wrong.' })
  message!: string;
}

@ObjectType({ description: 'Something a node reported that an operator must know.' })
export class NodeAlarm {
  @Field(() => String, { description: 'Stable code.' })
  code!: string;

  @Field(() => String, { description: 'What happened, as said last.' })
  message!: string;

  @Field(() => Int, { description: 'How often it was reported.' })
  occurrences!: number;

  @Field(() => DateTime, { description: 'First report.' })
  firstAt!: Date;

  @Field(() => DateTime, { description: 'Last report.' })
  lastAt!: Date;
}

@ObjectType({ description: 'What a node is busy with, as of its last heartbeat.' })
export class NodeLoad implements Load {
  @Field(() => Int, { description: 'Exchanges that are open.' })
  exchangesOpen!: number;

  @Field(() => Float, { description: 'Requests per second.' })
  requestsPerSecond!: number;

  @Field(() => Float, { description: '99th percentile of the event loop delay, in milliseconds.' })
  eventLoopDelayP99Ms!: number;

  @Field(() => Float, { description: 'Resident memory, in bytes.' })
  residentBytes!: number;

  @Field(() => Float, { description: 'Size of the audit spool, in bytes.' })
  spoolBytes!: number;

  @Field(() => Float, { description: 'Audit records that are not confirmed as stored.' })
  spoolRecordsUnconfirmed!: number;
}

@ObjectType({ description: 'A data-plane node.' })
export class Node {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What it calls itself.' })
  name!: string;

  @Field(() => String, { description: 'Build it runs.' })
  build!: string;

  @Field(() => Json, { description: 'Labels it carries.' })
  labels!: Record<string, string>;

  @Field(() => String, { nullable: true, description: 'Where other nodes reach it.' })
  peerUrl!: string | null;

  @Field(() => ID, { nullable: true, description: 'History of the configuration it runs.' })
  appliedHistoryId!: string | null;

  @Field(() => Int, { nullable: true, description: 'Revision of the configuration it runs; null for none.' })
  appliedRevision!: number | null;

  @Field(() => [NodeProblem], { description: 'Why it refused the last configuration; empty where it did not.' })
  problems!: NodeProblem[];

  @Field(() => Int, { nullable: true, description: 'Revision of the configuration it refused.' })
  problemsRevision!: number | null;

  @Field(() => DateTime, { nullable: true, description: 'When it was heard last.' })
  lastContactAt!: Date | null;

  @Field(() => NodeLoad, { nullable: true, description: 'What it is busy with.' })
  load!: NodeLoad | null;

  @Field(() => DateTime, { description: 'When it joined.' })
  createdAt!: Date;
}
export const NodeConnection = connectionType('Node', 'nodes', () => Node);

@ObjectType({ description: 'An object that is left out of the published configuration, and why.' })
export class WithheldObject {
  @Field(() => String, { description: 'Kind of the object: server, grant, principal, limits, keys.' })
  objectKind!: string;

  @Field(() => ID, { description: 'Id of the object.' })
  objectId!: string;

  @Field(() => String, { description: 'Path into the object; empty for the whole of it.' })
  path!: string;

  @Field(() => String, { description: 'What is wrong.' })
  message!: string;

  @Field(() => DateTime, { description: 'Since when.' })
  since!: Date;
}

@ObjectType({ description: 'What is published, and how far it has come.' })
export class ConfigStatus {
  @Field(() => ID, { description: 'History the configuration belongs to.' })
  historyId!: string;

  @Field(() => String, {
    description:
      'Public half of the key that signs histories, nodes and checkpoints of the audit trail: Ed25519, SPKI DER in ' +
      'base64. Keep a copy elsewhere: `sallyport audit verify` needs it from a source that is not the export.',
  })
  fleetPublicKey!: string;

  @Field(() => Int, { description: 'The newest revision; 0 before the first publication.' })
  configRevision!: number;

  @Field(() => DateTime, { nullable: true, description: 'When it was published.' })
  publishedAt!: Date | null;

  @Field(() => Boolean, { description: 'Changes are committed that no published revision has yet.' })
  pending!: boolean;

  @Field(() => Int, { description: 'Nodes in contact that run the newest revision.' })
  nodesLive!: number;

  @Field(() => Int, { description: 'Nodes that are not gone.' })
  nodesTotal!: number;

  @Field(() => String, { description: 'For people: "revision 412 is live on 17 of 18 nodes".' })
  summary!: string;

  @Field(() => [WithheldObject], { description: 'Objects that cannot be published as they stand.' })
  problems!: WithheldObject[];
}

@ObjectType({ description: 'How one node stands to a revision.' })
export class NodeConvergence {
  @Field(() => Node, { description: 'The node.' })
  node!: Node;

  @Field(() => NodeStatusEnum, {
    description: 'Live: in contact, with this revision or a later one. Gone: it may still serve what it had.',
  })
  state!: NodeStatus;

  @Field(() => Boolean, { description: 'It runs this revision or a later one, and is not gone.' })
  applied!: boolean;

  @Field(() => Boolean, { description: 'It was heard within the last 5 seconds.' })
  inContact!: boolean;
}

@ObjectType({ description: 'Whether a revision, and so a revocation in it, is enforced everywhere.' })
export class RevocationStatus {
  @Field(() => Int, { description: 'The revision asked for.' })
  configRevision!: number;

  @Field(() => Boolean, { description: 'Every node that is not gone is in contact and runs it or a later one.' })
  converged!: boolean;

  @Field(() => String, { description: 'For people: "revision 412 is live on 17 of 18 nodes".' })
  summary!: string;

  @Field(() => [NodeConvergence], {
    description:
      'Every node that is not gone; then those that are gone without a goodbye, or were removed, as long as they may serve.',
  })
  nodes!: NodeConvergence[];
}

@ObjectType({ description: 'A secret by which new nodes join the fleet.' })
export class JoinToken {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What people call it.' })
  name!: string;

  @Field(() => String, { description: 'First characters of the token, to recognize it by.' })
  hint!: string;

  @Field(() => Json, { description: 'Labels a node must carry to join by it.' })
  labels!: Record<string, string>;

  @Field(() => Int, { nullable: true, description: 'How many nodes may join by it; null for no limit.' })
  usesMax!: number | null;

  @Field(() => Int, { description: 'How many nodes have joined by it.' })
  uses!: number;

  @Field(() => DateTime, { description: 'Nobody joins by it from then on.' })
  expiresAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'When it was revoked.' })
  revokedAt!: Date | null;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;
}
export const JoinTokenConnection = connectionType('JoinToken', 'join tokens', () => JoinToken);

@ObjectType({ description: 'A join token and its secret, shown this once.' })
export class IssuedJoinTokenPayload {
  @Field(() => JoinToken, { description: 'The token.' })
  joinToken!: JoinToken;

  @Field(() => String, {
    nullable: true,
    description: 'The secret. Null on a dry run, a repeated create, and where the caller brought it.',
  })
  secret!: string | null;
}

@ObjectType({ description: 'A key by which nodes seal what they hand to clients. The key itself is never shown.' })
export class SealingKey {
  @Field(() => ID, { description: 'Names the key in what it sealed.' })
  id!: string;

  @Field(() => SealingKeyUseEnum, { description: 'What nodes do with it.' })
  use!: 'open' | 'seal';

  @Field(() => Int, { nullable: true, description: 'First revision that had it; null while it waits for one.' })
  publishedRevision!: number | null;

  @Field(() => DateTime, { nullable: true, description: 'When it began to seal.' })
  sealingSince!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'When it stops opening; null while it seals or waits.' })
  retiresAt!: Date | null;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;
}

@InputType({ description: 'A new join token.' })
export class CreateJoinTokenInput extends CreateInput {
  @Field(() => String, { description: 'What people will call it.' })
  name!: string;

  @Field(() => Json, { nullable: true, description: 'Labels a node must carry to join by it: an object of texts.' })
  labels?: Record<string, unknown> | null;

  @Field(() => Int, { nullable: true, description: 'How many nodes may join by it; null for no limit.' })
  usesMax?: number | null;

  @Field(() => DateTime, { description: 'Nobody joins by it from then on; at most 366 days away.' })
  expiresAt!: Date;

  @Field(() => String, { nullable: true, description: `${broughtSecretDescription} The prefix is spjoin_.` })
  secret?: string | null;
}

@InputType({ description: 'Which join token to revoke.' })
export class RevokeJoinTokenInput extends ChangeInput {}

@InputType({ description: 'Which node to remove.' })
export class RemoveNodeInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the node.' })
  id!: string;
}

@InputType({ description: 'The rotation.' })
export class RotateSealingKeyInput extends MutationInput {}

@ArgsType()
export class RevocationStatusArguments {
  @Field(() => Int, { description: 'The revision to look for, as configStatus showed it after the change.' })
  configRevision!: number;
}
