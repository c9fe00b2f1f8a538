import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import type { WebhookRow } from './inspection.tables.ts';
import {
  AuditCursor,
  AuditDelivery,
  CreateWebhookInput,
  DeleteWebhookInput,
  IssuedWebhookPayload,
  RestartAuditDeliveryInput,
  RotateWebhookKeyInput,
  TestWebhookInput,
  UpdateWebhookInput,
  Webhook,
  WebhookConnection,
  WebhooksArguments,
  WebhookSigningKey,
  WebhookTrial,
} from './webhook.graphql.ts';
import type { IssuedWebhook, WebhookService } from './webhook.service.ts';
import type { WebhookTrial as Trial, WebhookTrialService } from './webhook-trial.service.ts';

interface WebhookServices {
  readonly webhooks: WebhookService;
  readonly webhookTrials: WebhookTrialService;
}

@Resolver(() => Webhook)
export class WebhookResolver {
  private readonly services: WebhookServices;

  constructor(services: WebhookServices) {
    this.services = services;
  }

  @Query(() => Webhook, { description: 'A webhook by its id.' })
  webhook(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the webhook.' }) id: string,
  ): Promise<WebhookRow> {
    return this.services.webhooks.get(ctx, id);
  }

  @Query(() => WebhookConnection, { name: 'webhooks', description: 'Webhooks, the oldest first.' })
  async list(
    @Ctx() ctx: Context,
    @Args(() => WebhooksArguments) args: WebhooksArguments,
  ): Promise<ConnectionOf<WebhookRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.webhooks.list(ctx, args, page), page, ({ id }) => [id]);
  }

  @Mutation(() => IssuedWebhookPayload, { description: 'Makes a webhook; its secret is shown now and never again.' })
  createWebhook(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateWebhookInput, { description: 'The webhook.' }) input: CreateWebhookInput,
  ): Promise<IssuedWebhook> {
    return this.services.webhooks.create(ctx, input);
  }

  @Mutation(() => Webhook, { description: 'Changes a webhook.' })
  updateWebhook(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateWebhookInput, { description: 'The changes.' }) input: UpdateWebhookInput,
  ): Promise<WebhookRow> {
    return this.services.webhooks.update(ctx, input);
  }

  @Mutation(() => IssuedWebhookPayload, {
    description: 'Gives a webhook another signing key; those before sign beside it until the overlap is over.',
  })
  rotateWebhookKey(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateWebhookKeyInput, { description: 'The webhook.' }) input: RotateWebhookKeyInput,
  ): Promise<IssuedWebhook> {
    return this.services.webhooks.rotate(ctx, input);
  }

  @Mutation(() => Webhook, { description: 'Deletes a webhook; the audit trail keeps it.' })
  deleteWebhook(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteWebhookInput, { description: 'The webhook.' }) input: DeleteWebhookInput,
  ): Promise<WebhookRow> {
    return this.services.webhooks.delete(ctx, input);
  }

  @Mutation(() => WebhookTrial, {
    description: 'Sends a sample from the control plane, whatever the mode, and tells what came of it.',
  })
  testWebhook(
    @Ctx() ctx: Context,
    @Arg('input', () => TestWebhookInput, { description: 'The webhook and the sample.' }) input: TestWebhookInput,
  ): Promise<Trial> {
    return this.services.webhookTrials.test(ctx, input);
  }

  @Mutation(() => Webhook, {
    description: 'Has audit events sent again from an instant on, or, without one, goes on where it was given up.',
  })
  restartAuditDelivery(
    @Ctx() ctx: Context,
    @Arg('input', () => RestartAuditDeliveryInput, { description: 'The webhook and the instant.' })
    input: RestartAuditDeliveryInput,
  ): Promise<WebhookRow> {
    return this.services.webhooks.restartDelivery(ctx, input);
  }

  @FieldResolver(() => AuditDelivery, {
    nullable: true,
    description: 'How the delivery of audit events stands; null where it is told of none.',
  })
  auditDelivery(@Ctx() ctx: Context, @Root() { id }: WebhookRow): Promise<AuditDelivery | undefined> {
    return this.services.webhooks.delivery(ctx, id);
  }

  @FieldResolver(() => [AuditCursor], {
    description: 'How far audit events were taken, the chain that moved last first; at most 100.',
  })
  auditCursors(@Ctx() ctx: Context, @Root() { id }: WebhookRow): Promise<AuditCursor[]> {
    return this.services.webhooks.deliveryCursors(ctx, id);
  }

  @FieldResolver(() => [WebhookSigningKey], { description: 'The keys that sign what is sent, the newest first.' })
  signingKeys(@Root() { signingKeys }: WebhookRow): WebhookSigningKey[] {
    return signingKeys.map((key) => WebhookSigningKey.of(key));
  }
}
