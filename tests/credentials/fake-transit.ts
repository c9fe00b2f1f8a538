/** Speaks the wire of Vault's transit engine (https://developer.hashicorp.com/vault/api-docs/secret/transit), no more. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { z } from 'zod';

const body = z.object({ plaintext: z.base64(), ciphertext: z.string() }).partial();

export interface FakeTransit {
  readonly url: string;
  /** The requests as they were asked: `namespace verb`. */
  readonly asked: string[];
  /** A new version of the key; older ones still decrypt. */
  rotate(): void;
  /** Versions below do not decrypt any more. */
  retireBefore(oldest: number): void;
  /** Answers 503 until told otherwise, as a sealed Vault does. */
  seal(isSealed: boolean): void;
  stop(): Promise<void>;
}

/** A key in its versions, as the engine holds it. */
class KeyVersions {
  private readonly versions = [randomBytes(32)];
  minimum = 1;

  rotate(): void {
    this.versions.push(randomBytes(32));
  }

  answer(path: string, given: z.infer<typeof body>): unknown {
    switch (path) {
      case '/v1/team/transit/encrypt/sallyport':
        return { ciphertext: this.encrypt(Buffer.from(given.plaintext ?? '', 'base64')) };
      case '/v1/team/transit/decrypt/sallyport':
        return { plaintext: this.decrypt(given.ciphertext ?? '').toString('base64') };
      case '/v1/team/transit/rewrap/sallyport':
        return { ciphertext: this.encrypt(this.decrypt(given.ciphertext ?? '')) };
      default:
        throw new Error('unsupported path');
    }
  }

  private encrypt(plaintext: Buffer): string {
    const iv = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', this.versions.at(-1) ?? Buffer.alloc(32), iv);
    const text = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    return `vault:v${this.versions.length}:${Buffer.concat([iv, text, cipher.getAuthTag()]).toString('base64')}`;
  }

  private decrypt(ciphertext: string): Buffer {
    const [, number = '', text = ''] = /^vault:v(\d+):(.+)$/.exec(ciphertext) ?? [];
    if (Number(number) < this.minimum) throw new Error('ciphertext version is disallowed by policy');
    const bytes = Buffer.from(text, 'base64');
    const key = this.versions[Number(number) - 1] ?? Buffer.alloc(32);
    const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, 12));
    decipher.setAuthTag(bytes.subarray(-16));
    return Buffer.concat([decipher.update(bytes.subarray(12, -16)), decipher.final()]);
  }
}

export async function startFakeTransit(token: string, namespace: string): Promise<FakeTransit> {
  const versions = new KeyVersions();
  const asked: string[] = [];
  let isSealed = false;
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const given = request.headers['x-vault-namespace'] ?? '';
      asked.push(`${String(given)} ${request.url?.split('/').at(-2) ?? ''}`);
      const fail = (status: number, error: string): void => {
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ errors: [error] }));
      };
      if (isSealed) return fail(503, 'Vault is sealed');
      if (request.headers['x-vault-token'] !== token || given !== namespace) return fail(403, 'permission denied');
      try {
        const data = versions.answer(request.url ?? '', body.parse(JSON.parse(Buffer.concat(chunks).toString())));
        response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ data }));
      } catch (error) {
        fail(400, String(error));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`,
    asked,
    rotate: () => versions.rotate(),
    retireBefore: (oldest) => {
      versions.minimum = oldest;
    },
    seal: (sealed) => {
      isSealed = sealed;
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
