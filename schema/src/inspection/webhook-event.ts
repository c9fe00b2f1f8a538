import { type WebhookEvent, webhookContract, webhookTypes } from './webhook.ts';

/** What a webhook is asked about. */
export interface InspectionEvent {
  readonly kind: WebhookEvent;
  /** `webhook-id`; a verdict repeats it. */
  readonly id: string;
  /** A verdict repeats it as well. */
  readonly digest: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** How long an answer is waited for. */
  readonly deadlineMs: number;
  /** Who asks whom for what; becomes part of `data`. */
  readonly context: Readonly<Record<string, unknown>>;
  /** The JSON-RPC method of the exchange, or by which the definition was listed; null where there is none. */
  readonly method: string | null;
  /** JSON text; null where its digest is all that is told. */
  readonly message: string | null;
}

/** An event as it is posted. The message stands in it as it is, numbers and all: it must be JSON. */
export function eventText({ kind, digest, at, deadlineMs, context, message }: InspectionEvent): string {
  const text = JSON.stringify({
    type: webhookTypes[kind],
    contract: webhookContract,
    timestamp: new Date(at).toISOString(),
    data: { deadlineMs, ...context, digest },
  });
  return message === null ? text : `${text.slice(0, -2)},"message":${message}}}`;
}
