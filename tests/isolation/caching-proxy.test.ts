import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '@sallyport/cli';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { approvedBy, otherKey, type PipelineNode, startPipelineNode, testKey } from '../data-plane/pipeline-node.ts';
import { modern, send } from '../data-plane/requests.ts';
import { findBinary, hasBinary } from '../kit/binaries.ts';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';

/** Caches whatever it is allowed to, answers to POST too, by nothing but where and what was asked. */
function configuration(directory: string, port: number, node: PipelineNode, upstream: EchoUpstream): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${join(directory, name)};`)
    .join(' ');
  return `
daemon off;
${process.getuid?.() === 0 ? 'user root;' : ''}
pid ${join(directory, 'nginx.pid')};
error_log ${join(directory, 'error.log')} crit;
events {}
http {
  access_log off; ${temporary}
  proxy_cache_path ${join(directory, 'cache')} keys_zone=all:1m;
  proxy_cache all;
  proxy_cache_methods GET POST;
  proxy_cache_key "$request_method $request_uri $request_body";
  proxy_cache_valid any 1h;
  proxy_ignore_headers Vary;
  add_header X-Cache $upstream_cache_status;
  server {
    listen 127.0.0.1:${port};
    location /mcp/ { proxy_set_header Host 127.0.0.1; proxy_pass http://127.0.0.1:${node.port}; }
    location /direct { proxy_pass ${upstream.url}; }
  }
}`;
}

const available = hasBinary('nginx', 'nginx', 'the test of a caching proxy');

describe.skipIf(!available)('a proxy before the nodes that caches all it may', () => {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-caching-proxy-'));
  let upstream: EchoUpstream;
  let node: PipelineNode;
  let nginx: ChildProcess;
  let origin: string;

  beforeAll(async () => {
    upstream = await startEchoUpstream();
    node = await startPipelineNode({
      servers: [{ slug: 'shared', url: upstream.url, definitions: await approvedBy(upstream.url, ['echo', 'other']) }],
      grants: [
        { server: 'shared', subject: { kind: 'serviceAccount', id: 'first' }, tools: ['echo'] },
        { server: 'shared', subject: { kind: 'serviceAccount', id: 'another' }, tools: ['other'] },
      ],
    });
    const port = await freePort();
    writeFileSync(join(directory, 'nginx.conf'), configuration(directory, port, node, upstream));
    nginx = spawn(findBinary('nginx') ?? '', ['-c', join(directory, 'nginx.conf')], { stdio: 'inherit' });
    origin = `http://127.0.0.1:${port}`;
    await waitFor('the proxy answers', () => send(`${origin}/direct`, modern('tools/list', {}, 'warm')));
  });
  afterAll(async () => {
    const exited = once(nginx, 'exit');
    nginx.kill('SIGQUIT');
    await exited;
    await node.stop();
    await upstream.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const list = modern('tools/list');
  const as = (key: string, path = '/mcp/shared') =>
    send(`${origin}${path}`, { ...list, headers: { ...list.headers, authorization: `Bearer ${key}` } });

  test('does cache what the upstream itself offers for everybody', async () => {
    const answers = [await as(testKey, '/direct'), await as(otherKey, '/direct')];
    expect(answers.map(({ headers }) => headers['x-cache'])).toEqual(['MISS', 'HIT']);
  });

  test('never gives one principal what another was answered [P47]', async () => {
    const names = async (key: string) => {
      const { status, headers, json } = await as(key);
      expect(status).toBe(200);
      expect(headers['cache-control']).toBe('no-store');
      expect(headers['x-cache']).not.toBe('HIT');
      expect(json.result.cacheScope).toBe('private');
      return json.result.tools.map((tool: { name: string }) => tool.name);
    };
    for (let round = 0; round < 3; round++) {
      expect(await names(testKey)).toEqual(['echo']);
      expect(await names(otherKey)).toEqual(['other']);
    }
  });

  test('keeps neither a refusal nor an answer beyond it', async () => {
    const statuses = [await as(testKey), await as('sp_a_key_that_does_not_exist'), await as(testKey)];
    expect(statuses.map(({ status }) => status)).toEqual([200, 401, 200]);
  });
});
