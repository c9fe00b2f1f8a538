import { expect, test } from 'vitest';
import { redirectUriMatches, redirectUriProblem } from './redirect-uri.ts';

test.each([
  ['https://client.example/cb', true],
  ['http://127.0.0.1:8080/cb', true],
  ['http://localhost/cb', true],
  ['cursor://anysphere.cursor-retrieval/oauth/callback', true],
  ['http://client.example/cb', false],
  ['http://127.0.0.1.evil.example/cb', false],
  ['http://localhost@evil.example/cb', false],
  ['https://user:pass@client.example/cb', false],
  ['https://client.example/cb#fragment', false],
  ['javascript:alert(1)', false],
  ['data:text/html,x', false],
  ['https://client.example/"onload=', false],
  ['/callback', false],
])('%s may be a redirect address: %s', (uri, isAllowed) => {
  expect(redirectUriProblem(uri) === undefined).toBe(isAllowed);
});

test.each([
  ['http://127.0.0.1/cb', 'http://127.0.0.1:51234/cb', true],
  ['http://127.0.0.1:80/cb', 'http://127.0.0.1:51234/cb', true],
  ['http://127.0.0.1/cb', 'http://localhost:51234/cb', false],
  ['http://127.0.0.1/cb', 'http://127.0.0.1:51234/cb/more', false],
  ['http://127.0.0.1/cb', 'http://127.0.0.1:51234/cb?x=1', false],
  ['https://client.example/cb', 'https://client.example:8443/cb', false],
  ['https://client.example/cb', 'https://client.example/cb/', false],
])('%s registered, %s asked: %s', (registered, uri, matches) => {
  expect(redirectUriMatches([registered], uri)).toBe(matches);
});
