import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { Webhook } from 'standardwebhooks';

interface InspectionEvent {
  readonly type: string;
  readonly data: { readonly digest: string; readonly message?: unknown };
}

/** Denies whatever mentions the project that nobody may know of, and lets all else pass. */
function judge({ data }: InspectionEvent): { decision: 'allow' | 'deny'; reasonCode: string } {
  const mentions = JSON.stringify(data.message ?? '').includes('Project Nightingale');
  return mentions ? { decision: 'deny', reasonCode: 'project.secret' } : { decision: 'allow', reasonCode: 'nothing' };
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

async function answer(webhook: Webhook, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = await readBody(request);
  let event: InspectionEvent;
  try {
    event = webhook.verify(body, request.headers as Record<string, string>) as InspectionEvent;
  } catch {
    response.writeHead(401).end();
    return;
  }
  const id = request.headers['webhook-id'];
  const verdict = { contract: '1', id, digest: event.data.digest, ...judge(event) };
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(verdict));
}

/** @param secret as createWebhook showed it: whsec_… */
export function createReceiver(secret: string): Server {
  const webhook = new Webhook(secret);
  return createServer((request, response) => {
    answer(webhook, request, response).catch(() => response.destroy());
  });
}
