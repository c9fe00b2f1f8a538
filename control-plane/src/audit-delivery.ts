import { randomInt } from 'node:crypto';
import { type Egress, WebhookSender } from '@sallyport/schema/platform';
import { isPermitted } from './access/rights.ts';
import type { RoleService } from './access/role.service.ts';
import { AuditDeliveryService } from './audit/delivery.service.ts';
import type { AuditAlarm } from './audit/ingest.service.ts';
import { systemContext } from './context.ts';
import { usablePrincipal } from './identity/principal.service.ts';
import type { WebhookService } from './inspection/webhook.service.ts';
import type { ServicesOptions } from './services.ts';

/** A receiver of audit events may take its time: nobody waits for it. */
const deliveryDeadlineMs = 10_000;

/** Sends audit events to webhooks, by the rights of who set that up. */
export function auditDeliveryOf(
  options: ServicesOptions,
  roles: RoleService,
  webhooks: WebhookService,
  egress: Egress,
): AuditDeliveryService {
  const { database, metrics, clock, log } = options;
  const alarm = (code: AuditAlarm, webhookId: string, message: string): void => {
    metrics.auditAlarm(code);
    log.error({ webhookId, code }, message);
  };
  return new AuditDeliveryService({
    database,
    targetOf: async (webhookId) => {
      const entry = await webhooks.entryOf(webhookId);
      if (entry === undefined || entry === 'unusable') return entry;
      const sender = new WebhookSender({ egress, now: () => clock.now(), monotonic: () => clock.monotonic() });
      const target = { ...entry, deadlineMs: deliveryDeadlineMs };
      return { bytesMax: entry.payloadBytesMax, send: (event) => sender.deliver(target, event) };
    },
    mayRead: async (principalId) => {
      if ((await usablePrincipal(database.db, principalId, clock.now())) === undefined) return false;
      return isPermitted(await roles.rightsOf(database.db, principalId), 'audit:read');
    },
    onUnusable: (webhookId, message) => alarm('AUDIT_DELIVERY_UNUSABLE', webhookId, message),
    onStopped: (webhookId, message) => alarm('AUDIT_DELIVERY_STOPPED', webhookId, message),
    systemContext: systemContext('audit delivery', [], { clock, log }),
    clock,
    log,
    random: () => randomInt(1_000_000) / 1_000_000,
  });
}
