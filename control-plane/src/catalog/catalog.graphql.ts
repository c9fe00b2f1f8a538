import type { DefinitionKind, DefinitionState, ToolRisk, UpstreamTransport } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql';
import { connectionType, DateTime, graphqlEnum, Json, PageArguments, SearchArguments } from '../graphql-connection.ts';
import type { AuditMode, AutoApproval, Discoverer, DriftClass, HealthRow, Lifecycle } from './catalog.tables.ts';

export const LifecycleEnum = graphqlEnum<Lifecycle>('Lifecycle', 'Where a server stands between idea and service.', {
  draft: 'Being prepared; not served.',
  pending: 'Waiting for approval; not served.',
  approved: 'In service.',
  deprecated: 'In service, on its way out.',
  disabled: 'Out of service.',
});

export const AuditModeEnum = graphqlEnum<AuditMode>(
  'AuditMode',
  'How surely a call is on record before it is answered.',
  {
    buffered: 'Written before the first byte of the answer; survives the end of the process.',
    strict: 'Synced to disk before the call is forwarded; survives the loss of power.',
  },
);

export const DiscovererEnum = graphqlEnum<Discoverer>(
  'Discoverer',
  'Who connects to a server to learn what it defines.',
  {
    controlPlane: 'The control plane; when it cannot reach the server, a node.',
    node: 'A node, since the control plane has no way to the server.',
  },
);

export const UpstreamTransportEnum = graphqlEnum<UpstreamTransport>(
  'UpstreamTransport',
  'How the endpoint of a server is spoken to.',
  {
    streamableHttp: 'Streamable HTTP, since 2025-03-26.',
    httpSse: 'HTTP with server-sent events, as in 2024-11-05.',
  },
);

export const DefinitionKindEnum = graphqlEnum<DefinitionKind>('DefinitionKind', 'What a server defines.', {
  tool: 'A tool.',
  prompt: 'A prompt.',
  resource: 'A resource.',
  resourceTemplate: 'A resource template.',
  instructions: 'Its instructions for models, told when it is greeted.',
  view: 'A page of MCP Apps (ui://…) that a tool or list names: what is read there, of the page itself its digest.',
  serverInfo: 'What it says that it is, where that is more than a name and the number of a version.',
});

export const DefinitionStateEnum = graphqlEnum<DefinitionState>(
  'DefinitionState',
  'Whether a definition may be served. Only approved ones are.',
  {
    approved: 'What the server sends is what was approved.',
    pending: 'Nobody has approved it yet.',
    drifted: 'The server sends, or sent since the last approval, something other than what was approved.',
    quarantined: 'Taken out of service by hand, until it is approved again.',
  },
);

export const AutoApprovalEnum = graphqlEnum<AutoApproval>(
  'AutoApproval',
  'How far the definitions of a trusted server may drift and be approved by themselves. What the scan finds severe, what ' +
    'somebody rejected and what is quarantined never is.',
  {
    none: 'Somebody looks at everything.',
    minor: 'White space, titles, icons from where some were approved, and what says nothing to a model.',
    review: 'All but what would be quarantined; new definitions too, unless they suggest a high risk.',
  },
);

export const DriftClassEnum = graphqlEnum<DriftClass>(
  'DriftClass',
  'How far what a server sends is from what was approved, in ascending order.',
  {
    same: 'Nothing that says anything differs.',
    minor: 'White space, titles, icons from where some were approved, and what says nothing to a model.',
    review: 'Descriptions, schemas, annotations, metadata, and whatever is not known.',
    quarantine:
      'Hidden characters, demands on the model, a higher risk, a parameter that newly takes a secret, a command or an address.',
  },
);

export const HealthStateEnum = graphqlEnum<HealthRow['state']>('HealthState', 'How an observer found a server.', {
  healthy: 'It answered as an MCP server.',
  unhealthy: 'It did not; see the problem.',
});

@ObjectType({ description: 'A key and a value that an administrator has put on something.' })
export class Label {
  @Field(() => String, { description: 'For example team.' })
  key!: string;

  @Field(() => String, { description: 'For example payments.' })
  value!: string;
}

/** As they are kept, in the order of the record. */
export function labelsFrom(record: Readonly<Record<string, string>>): Label[] {
  return Object.entries(record).map(([key, value]) => ({ key, value }));
}

@ObjectType({ description: 'Why a server could not be discovered.' })
export class DiscoveryProblem {
  @Field(() => String, { description: 'A code of the error catalogue, for example UPSTREAM_UNREACHABLE.' })
  code!: string;

  @Field(() => String, { description: 'What happened, without anything the server said.' })
  message!: string;
}

@ObjectType({ description: 'How one observer found a server last. Shown, never an input to a decision.' })
export class ServerHealth {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => String, { description: 'controlPlane, or the id of a node.' })
  observer!: string;

  @Field(() => HealthStateEnum, { description: 'How it found the server.' })
  state!: HealthRow['state'];

  @Field(() => DateTime, { description: 'When it looked.' })
  observedAt!: Date;

  @Field(() => Float, { nullable: true, description: 'Milliseconds to the first answer; null when there was none.' })
  latencyMs!: number | null;

  @Field(() => String, { nullable: true, description: 'A code of the error catalogue; null when healthy.' })
  problem!: string | null;
}

@ObjectType({ description: 'A registered MCP server. What runs at its URL is the upstream.' })
export class Server {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'Names its endpoint on every node, /mcp/<slug>. Fixed.' })
  slug!: string;

  @Field(() => String, { description: 'What people call it.' })
  title!: string;

  @Field(() => String, { description: 'What it is for.' })
  description!: string;

  @Field(() => String, { description: 'Endpoint of the upstream.' })
  url!: string;

  @Field(() => UpstreamTransportEnum, { description: 'How the last discovery found that the endpoint is spoken to.' })
  transport!: UpstreamTransport;

  @Field(() => [String], {
    description:
      'Extensions of the protocol that may be offered to its clients and to it; every other is taken out of what ' +
      'either declares. What the server offers stands in its capabilities.',
  })
  extensions!: string[];

  @Field(() => LifecycleEnum, { description: 'Whether it is served.' })
  lifecycle!: Lifecycle;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the group whose members may write it, as far as their roles let them write their own servers.',
  })
  ownerGroupId!: string | null;

  @Field(() => AuditModeEnum, { description: 'How surely its calls are on record.' })
  auditMode!: AuditMode;

  @Field(() => AutoApprovalEnum, { description: 'How far its definitions may drift and be approved by themselves.' })
  autoApproval!: AutoApproval;

  @Field(() => Int, {
    nullable: true,
    description:
      'Nodes out of contact with the control plane for longer, in ms, refuse it; null for the fleet’s default.',
  })
  configStalenessMaxMs!: number | null;

  @Field(() => DiscovererEnum, { description: 'Who discovers it.' })
  discoveredBy!: Discoverer;

  @Field(() => [String], { description: 'Protocol revisions it was observed to speak, newest first.' })
  protocolRevisions!: string[];

  @Field(() => Json, { description: 'Its capabilities, as it stated them.' })
  capabilities!: unknown;

  @Field(() => Json, { nullable: true, description: 'What it says it is: name and version.' })
  serverInfo!: unknown;

  @Field(() => String, { nullable: true, description: 'Its instructions for models, in its own words.' })
  instructions!: string | null;

  @Field(() => DateTime, { nullable: true, description: 'When it was discovered last with success.' })
  discoveredAt!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'When its discovery was tried last.' })
  discoveryAttemptedAt!: Date | null;

  @Field(() => [String], { description: 'What the last discovery left out, and why.' })
  discoveryNotes!: string[];

  @Field(() => Int, {
    description:
      'Raised by each change, also of its definitions and by a discovery that finds something new; pass it as ' +
      'expectedRevision.',
  })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was registered.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}

export const ServerConnection = connectionType('Server', 'servers', () => Server);

export const ToolRiskEnum = graphqlEnum<ToolRisk>(
  'ToolRisk',
  'How much harm a tool can do, in the judgement of an administrator.',
  {
    low: 'Hardly any.',
    medium: 'Some, and it can be mended.',
    high: 'Much, or it cannot be mended.',
    critical: 'Enough to stop the organization.',
  },
);

const labelFields = {
  risk: 'How much harm it can do.',
  readOnly: 'Whether it changes nothing.',
  destructive: 'Whether it can destroy something.',
  idempotent: 'Whether calling it again with the same arguments changes nothing more.',
  openWorld: 'Whether it reaches beyond the organization.',
} as const;

@ObjectType({
  description:
    'What an administrator says of a tool, for limits of grants. What the server says of itself decides nothing. Null ' +
    'where nobody has judged.',
})
export class ToolLabels {
  @Field(() => ToolRiskEnum, { nullable: true, description: labelFields.risk })
  risk!: ToolRisk | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.readOnly })
  readOnly!: boolean | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.destructive })
  destructive!: boolean | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.idempotent })
  idempotent!: boolean | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.openWorld })
  openWorld!: boolean | null;
}

@InputType({ description: 'Labels of a tool: absent ones stay, null takes one away.' })
export class ToolLabelsInput {
  @Field(() => ToolRiskEnum, { nullable: true, description: labelFields.risk })
  risk?: ToolRisk | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.readOnly })
  readOnly?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.destructive })
  destructive?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.idempotent })
  idempotent?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: labelFields.openWorld })
  openWorld?: boolean | null;
}

@ObjectType({
  description:
    'A tool, prompt, resource or resource template that a server defines, its instructions for models, a page of MCP Apps, or what it says that it is.',
})
export class Definition {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { description: 'Id of the server that defines it.' })
  serverId!: string;

  @Field(() => DefinitionKindEnum, { description: 'What it is.' })
  kind!: DefinitionKind;

  @Field(() => String, {
    description:
      'Name of a tool or prompt, URI of a resource or page, URI template of a template, instructions, serverInfo.',
  })
  name!: string;

  @Field(() => DefinitionStateEnum, { description: 'Whether it may be served.' })
  state!: DefinitionState;

  @Field(() => [String], {
    description: 'Digests of what the server sends; several when it words it differently for older revisions.',
  })
  digests!: string[];

  @Field(() => [String], {
    description: 'Digests that nodes saw besides, as lists may vary by who asks, until somebody decides on them.',
  })
  reportedDigests!: string[];

  @Field(() => [String], { description: 'Digests that may be served.' })
  approvedDigests!: string[];

  @Field(() => [String], { description: 'Digests that somebody refused; never approved by themselves.' })
  rejectedDigests!: string[];

  @Field(() => DriftClassEnum, {
    nullable: true,
    description: 'How far what is sent is from what was approved; null where nothing was, or nothing differs.',
  })
  driftClass!: DriftClass | null;

  @Field(() => DateTime, { description: 'When it was seen first.' })
  firstSeenAt!: Date;

  @Field(() => DateTime, {
    nullable: true,
    description: 'Since when the server does not define it; null while it does.',
  })
  removedAt!: Date | null;

  @Field(() => Int, { description: 'Raised by each change.' })
  revision!: number;
}

export const DefinitionConnection = connectionType('Definition', 'definitions', () => Definition);

@InputType({ description: 'A key and a value to put on something.' })
export class LabelInput {
  @Field(() => String, { description: '1 to 128 letters, digits and inner . _ / -.' })
  key!: string;

  @Field(() => String, { description: 'At most 128 characters.' })
  value!: string;
}

@ArgsType()
export class ServersArguments extends SearchArguments {
  @Field(() => LifecycleEnum, { nullable: true, description: 'Only servers in this state.' })
  lifecycle?: Lifecycle | null;

  @Field(() => String, { nullable: true, description: 'Only the server with exactly this slug.' })
  slug?: string | null;

  @Field(() => [LabelInput], { nullable: true, description: 'Only servers that carry all of these labels.' })
  labels?: LabelInput[] | null;
}

@ArgsType()
export class ServerDefinitionsArguments extends PageArguments {
  @Field(() => DefinitionKindEnum, { nullable: true, description: 'Only this kind.' })
  kind?: DefinitionKind | null;

  @Field(() => DefinitionStateEnum, { nullable: true, description: 'Only those in this state.' })
  state?: DefinitionState | null;

  @Field(() => DriftClassEnum, { nullable: true, description: 'Only those that drifted so far.' })
  driftClass?: DriftClass | null;

  @Field(() => String, { nullable: true, description: 'Only those with exactly this name.' })
  name?: string | null;

  @Field(() => Boolean, { nullable: true, description: 'Also those that the server does not define any more.' })
  includeRemoved?: boolean | null;
}

@ArgsType()
export class DefinitionsArguments extends ServerDefinitionsArguments {
  @Field(() => ID, { nullable: true, description: 'Only definitions of this server.' })
  serverId?: string | null;
}
