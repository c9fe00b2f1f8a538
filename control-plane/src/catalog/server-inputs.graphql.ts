import { Field, ID, InputType, Int } from 'type-graphql';
import {
  ChangeInput,
  CreateInput,
  MutationInput,
  ReferenceInput,
  dryRunDescription,
  idempotencyKeyDescription,
} from '../graphql-connection.ts';
import { AuditModeEnum, AutoApprovalEnum, DiscovererEnum, LabelInput } from './catalog.graphql.ts';
import type { AuditMode, AutoApproval, Discoverer } from './catalog.tables.ts';

@InputType({ description: 'A server to register. It begins as a draft and is discovered at once.' })
export class NewServerInput {
  @Field(() => String, {
    description:
      'Names its endpoint on every node, /mcp/<slug>: lower-case letters, digits and inner hyphens, at most 64. ' +
      'Must not look like another server’s.',
  })
  slug!: string;

  @Field(() => String, { nullable: true, description: 'What people call it; the slug if absent.' })
  title?: string | null;

  @Field(() => String, { nullable: true, description: 'What it is for.' })
  description?: string | null;

  @Field(() => String, { description: 'Endpoint of the upstream, http or https: Streamable HTTP, or HTTP+SSE.' })
  url!: string;

  @Field(() => [LabelInput], { nullable: true, description: 'Labels, at most 64.' })
  labels?: LabelInput[] | null;

  @Field(() => ID, {
    nullable: true,
    description:
      'Id of the group whose members own it. Who may write only his own servers must name one of his groups.',
  })
  ownerGroupId?: string | null;

  @Field(() => AuditModeEnum, { nullable: true, description: 'BUFFERED if absent.' })
  auditMode?: AuditMode | null;

  @Field(() => AutoApprovalEnum, {
    nullable: true,
    description: 'NONE if absent; another needs server:approve.',
  })
  autoApproval?: AutoApproval | null;

  @Field(() => Int, { nullable: true, description: 'In milliseconds; the fleet’s default if absent.' })
  configStalenessMaxMs?: number | null;

  @Field(() => DiscovererEnum, { nullable: true, description: 'CONTROL_PLANE if absent.' })
  discoveredBy?: Discoverer | null;

  @Field(() => [String], {
    nullable: true,
    description: 'Extensions that may pass, at most 64; tasks and MCP Apps if absent.',
  })
  extensions?: string[] | null;
}

@InputType({ description: 'A server to register. It begins as a draft and is discovered at once.' })
export class CreateServerInput extends NewServerInput {
  @Field(() => Boolean, { defaultValue: false, description: dryRunDescription })
  dryRun!: boolean;

  @Field(() => String, { nullable: true, description: idempotencyKeyDescription })
  idempotencyKey?: string | null;
}

@InputType({ description: 'Servers to register: all of them or, where one is refused, none.' })
export class CreateServersInput extends CreateInput {
  @Field(() => [NewServerInput], { description: 'At most 200.' })
  items!: NewServerInput[];
}

@InputType({ description: 'Changes to a server: absent fields keep their value. The slug is fixed.' })
export class ServerChangeInput extends ReferenceInput {
  @Field(() => String, { nullable: true, description: 'What people call it: 1 to 128 characters.' })
  title?: string | null;

  @Field(() => String, { nullable: true, description: 'What it is for.' })
  description?: string | null;

  @Field(() => String, {
    nullable: true,
    description:
      'Another endpoint. For a server in service this needs server:approve; elsewhere it must be discovered anew.',
  })
  url?: string | null;

  @Field(() => [LabelInput], {
    nullable: true,
    description: 'Replaces all labels. For a server in service this needs server:approve, since grants may go by them.',
  })
  labels?: LabelInput[] | null;

  @Field(() => ID, { nullable: true, description: 'Id of the group whose members own it; null for none.' })
  ownerGroupId?: string | null;

  @Field(() => AuditModeEnum, {
    nullable: true,
    description:
      'How surely its calls are on record. BUFFERED after STRICT needs server:approve for a server in service.',
  })
  auditMode?: AuditMode | null;

  @Field(() => AutoApprovalEnum, {
    nullable: true,
    description: 'How far its definitions may drift and be approved by themselves. To change it needs server:approve.',
  })
  autoApproval?: AutoApproval | null;

  @Field(() => Int, { nullable: true, description: 'In milliseconds; null for the fleet’s default.' })
  configStalenessMaxMs?: number | null;

  @Field(() => DiscovererEnum, { nullable: true, description: 'Who discovers it.' })
  discoveredBy?: Discoverer | null;

  @Field(() => [String], {
    nullable: true,
    description: 'Replaces the extensions that may pass. To add one to a server in service needs server:approve.',
  })
  extensions?: string[] | null;
}

@InputType({ description: 'Changes to a server: absent fields keep their value. The slug is fixed.' })
export class UpdateServerInput extends ServerChangeInput {
  @Field(() => Boolean, { defaultValue: false, description: dryRunDescription })
  dryRun!: boolean;
}

@InputType({ description: 'Servers to change: all of them or, where one is refused, none.' })
export class UpdateServersInput extends MutationInput {
  @Field(() => [ServerChangeInput], { description: 'At most 200.' })
  items!: ServerChangeInput[];
}

@InputType({ description: 'A server to do something with.' })
export class ServerInput extends ChangeInput {}

@InputType({ description: 'A server of a list, by its id.' })
export class ServerReferenceInput extends ReferenceInput {}

@InputType({ description: 'Servers to do something with: all of them or, where one is refused, none.' })
export class ServersInput extends MutationInput {
  @Field(() => [ServerReferenceInput], { description: 'At most 200.' })
  items!: ServerReferenceInput[];
}
