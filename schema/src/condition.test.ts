import { describe, expect, test } from 'vitest';
import {
  compileCondition,
  conditionArguments,
  conditionArgumentsMax,
  type ConditionFacts,
  type ConditionKind,
  conditionProblem,
} from './condition.ts';

const facts: ConditionFacts = {
  principal: { id: 'p1', kind: 'user', groups: ['analysts', 'eng-core'] },
  server: { slug: 'jira', labels: { team: 'crm' } },
  client: { name: 'claude', version: '1.0', address: '10.1.2.3' },
  now: new Date('2026-11-23T09:30:00Z'),
};

function ask(kind: ConditionKind, text: string, argumentsText?: string): string {
  const given = conditionArguments(argumentsText);
  if (kind === 'whenArguments' && given === undefined) return 'too large';
  const call = {
    target: { kind: 'tool', name: 'pay' },
    arguments: given ?? {},
    argumentsLength: argumentsText?.length ?? 0,
  };
  return compileCondition(kind, text).evaluate(facts, kind === 'when' ? undefined : call);
}

const many = (length: number): number[] => Array.from({ length }, (_, index) => index);

describe('a condition', () => {
  test.each([
    ['"analysts" in principal.groups', 'yes'],
    ['principal.groups.exists(g, g.startsWith("eng-"))', 'yes'],
    ['principal.kind == "serviceAccount"', 'no'],
    ['client.address.inNetwork("10.0.0.0/8")', 'yes'],
    ['client.address.inNetwork("192.168.0.0/16")', 'no'],
    ['now.getHours("UTC") >= 9 && now.getHours("UTC") < 17', 'yes'],
    ['server.labels.team == "crm"', 'yes'],
    ['server.labels.stage == "prod"', 'unknown'],
    ['"stage" in server.labels && server.labels.stage == "prod"', 'no'],
    ['client.name.matches("^cl(au)+de$")', 'yes'],
    ['client.name.matches("aud")', 'yes'],
  ])('of time, principal, client and server: %s is %s', (text, expected) => expect(ask('when', text)).toBe(expected));

  test.each([
    ['arguments.amount <= 1000', '{"amount":1000}', 'yes'],
    ['arguments.amount <= 1000', '{"amount":1000.5}', 'no'],
    ['arguments.amount <= 1000', '{"amount":"7"}', 'unknown'],
    ['arguments.amount <= 1000', '{}', 'unknown'],
    ['arguments.amount <= 1000', undefined, 'unknown'],
    ['!has(arguments.amount) || arguments.amount <= 1000', '{}', 'yes'],
    ['arguments.id == 9007199254740993', '{"id":9007199254740993}', 'yes'],
    ['arguments.id == 9007199254740992', '{"id":9007199254740993}', 'no'],
    ['arguments.id == 1', '{"id":1.0}', 'yes'],
    ['has(arguments.constructor) || has(arguments.toString)', '{}', 'no'],
    ['has(arguments.__proto__)', '{"__proto__":{"a":1}}', 'yes'],
    ['target.name == "pay" && arguments.to.all(t, t.endsWith("@example.com"))', '{"to":["a@example.com"]}', 'yes'],
  ])('of arguments: %s over %s is %s', (text, given, expected) =>
    expect(ask('whenArguments', text, given)).toBe(expected),
  );

  test.each([
    ['', 1, 1, /empty/],
    ['principal.nam == "x"', 1, 11, /nam/],
    ['true &&\n  1 + "a" == 2', 2, 3, /overload/],
    ['principal.id', 1, 1, /true or false/],
    ['true &&\n principal.name == "Ada"', 2, 2, /principal\.id/],
    ['has(principal.name)', 1, 5, /principal\.id/],
    ['principal["name"] == "Ada"', 1, 1, /name/],
    ['a ||', 1, 5, /Unexpected/],
    ['arguments.amount > 1', 1, 1, /arguments/],
    ['client.name.matches("a(?=b)")', 1, 1, /RE2/],
    ['client.name.matches(client.version)', 1, 1, /literal/],
    ['client.name.matches("(((((a{1000}){1000}){1000})))")', 1, 1, /RE2/],
    ['client.address.inNetwork("10.0.0.0/33")', 1, 1, /network/],
    ['client.name.matchesRe2("a")', 1, 1, /matchesRe2/],
    ['cel.bind(a, "x", a == "x")', 1, 1, /bind/],
    ['principal.id // .matches("a")\n.matches("a")', 1, 1, /comment/],
    ['(client.name + "a").split("").size() > 1', 1, 2, /without \+/],
    ['principal.groups.join("-").split("-").size() > 1', 1, 1, /without \+/],
    ['principal.groups.join(client.name) == ""', 1, 1, /literal/],
    [`client.name == ${Array.from({ length: 18 }, () => 'client.name').join(' + ')}`, 1, 16, /more than 16/],
    ['principal.groups.all(a, principal.groups.all(b, a == b))', 1, 25, /inside another/],
    [`${'!'.repeat(300)}true`, 1, 1, /./],
    [`"${'x'.repeat(2048)}" == ""`, 1, 1, /longer/],
  ])('that cannot be used is refused where it is written, with the position: %s', (text, line, column, message) => {
    const problem = conditionProblem('when', text);
    expect(problem?.message).toMatch(message);
    if (text.startsWith('!')) return;
    expect(problem).toMatchObject({ line, column });
  });

  test.each([
    ['arguments.x - (arguments.y - 1) == 2', '{"x":3,"y":2}', 'yes'],
    ['arguments.x / (arguments.y * 2) == 1', '{"x":8,"y":4}', 'yes'],
    ['arguments.x > 0.00000000001', '{"x":0.000000000001}', 'no'],
    ['arguments.x == 0.12345678901', '{"x":0.12345678901}', 'yes'],
    ['arguments.x < 1e30', '{"x":1.5}', 'yes'],
    ['arguments.x.lowerAscii() == "mike"', '{"x":"mi\u212ae"}', 'no'],
    ['arguments.x.lowerAscii() == "mike" && "mike".upperAscii() == "MIKE"', '{"x":"MIke"}', 'yes'],
    ['arguments.x.contains("😀")', '{"x":"a😀"}', 'yes'],
    ['arguments.x.matches(r"^\\d+$") && "it\\n" != arguments.x', '{"x":"12"}', 'yes'],
    ['(arguments.to).all(a, a.matches("^a") && a != arguments.x)', '{"x":"b","to":["a1","a2"]}', 'yes'],
    ['arguments.to // .exists(a, true)\n .all(a, a == "x")', '{"to":["y"]}', 'no'],
    ['arguments.x . matches ( "a$" )', '{"x":"a"}', 'yes'],
    [
      'arguments.by.all(key, arguments.by[key] > 0) && size(arguments.by.map(key, key)) == 2',
      '{"by":{"a":1,"b":2}}',
      'yes',
    ],
    ['[1, 2].map(a, a + arguments.x) == [2, 3]', '{"x":1}', 'yes'],
  ])('means what is written: %s over %s is %s', (text, given, expected) =>
    expect(ask('whenArguments', text, given)).toBe(expected),
  );

  test.each([
    ['client.name == "\ud83d"'],
    ['client.name.size() < 1e400'],
    ['client.name == "\\U0001F600"'],
    ['1.0 < 1e-320'],
    ['1e30 > 2.0'],
  ])('is accepted just where it can be compiled: %s', (text) => {
    const compiles = (): boolean => {
      try {
        return compileCondition('when', text).evaluate(facts) !== undefined;
      } catch {
        return false;
      }
    };
    expect(conditionProblem('when', text) === undefined).toBe(compiles());
  });

  test.each([
    ['arguments.text.split(",").exists(r, arguments.text.contains(r + "b"))', { text: 'aa,'.repeat(20_000) }],
    ['arguments.rows.exists(r, arguments.text.matches(".*x$"))', { rows: many(900), text: 'a'.repeat(50_000) }],
    ['arguments.text.split("").all(c, c in arguments.rows)', { rows: many(900), text: '0'.repeat(50_000) }],
    ['arguments.text.split("").all(c, size(arguments.text) > 1)', { text: 'a'.repeat(60_000) }],
    [
      'bytes(arguments.text).json().a.all(x, x in arguments.rows)',
      { rows: many(900), text: JSON.stringify({ a: many(10_000) }) },
    ],
    [
      Array.from({ length: 8 }, () => 'arguments.text.matches("(a|aa|ab)*c")').join(' || '),
      { text: 'a'.repeat(60_000) },
    ],
  ])('is unknown before it takes long, whatever a caller sends: %s', (text, given) => {
    const began = performance.now();
    expect(ask('whenArguments', text, JSON.stringify(given))).toBe('unknown');
    expect(performance.now() - began).toBeLessThan(2_000);
  });

  test('over a usual number of elements and texts is decided', () => {
    const given = { rows: many(200), text: `${'a'.repeat(3_000)}199` };
    const text = 'arguments.rows.exists(r, arguments.text.endsWith(string(r)))';
    expect(ask('whenArguments', text, JSON.stringify(given))).toBe('yes');
  });

  test('of an unknown client address is unknown', () => {
    const condition = compileCondition('when', 'client.address.inNetwork("0.0.0.0/0")');
    expect(condition.evaluate({ ...facts, client: { ...facts.client, address: '' } })).toBe('unknown');
  });

  test('uses a regular expression in time linear in the text', () => {
    const condition = compileCondition('when', 'client.name.matches("^(a+)+$")');
    const name = `${'a'.repeat(30_000)}!`;
    expect(condition.evaluate({ ...facts, client: { ...facts.client, name } })).toBe('no');
  });
});

describe('arguments of a condition', () => {
  test.each([
    ['more values than the limit', JSON.stringify({ a: Array.from({ length: conditionArgumentsMax }, () => 1) })],
    ['more text than the limit', JSON.stringify({ a: 'x'.repeat(65 * 1024) })],
    ['a number beyond 64 bits', '{"a":123456789012345678901234567890}'],
    ['a number that would be rounded', '{"a":9007199254740993.0}'],
    ['an infinite number', '{"a":1e999}'],
    ['a list', '[1]'],
    ['null', 'null'],
  ])('with %s are unknown', (_name, text) => expect(conditionArguments(text)).toBeUndefined());
});
