import { createRequire } from "node:module";
import { Language, type Node, Parser } from "web-tree-sitter";

export type { Node };

/** Scripts larger than this are not read: their tree takes some hundred times their size in memory. */
export const SCRIPT_MAX_BYTES = 256 * 1024;

/** Parses shell scripts with tree-sitter's grammar of bash, which holds POSIX sh. */
export class ShellParser {
  readonly #parser: Parser;

  private constructor(parser: Parser) {
    this.#parser = parser;
  }

  static async load(): Promise<ShellParser> {
    const require = createRequire(import.meta.url);
    await Parser.init({ locateFile: () => require.resolve("web-tree-sitter/web-tree-sitter.wasm") });
    const parser = new Parser();
    parser.setLanguage(await Language.load(require.resolve("tree-sitter-bash/tree-sitter-bash.wasm")));
    return new ShellParser(parser);
  }

  /** The tree of a script. What is no shell in it are nodes of type `ERROR`. */
  parse(script: string): Node {
    const tree = this.#parser.parse(script);
    if (!tree) throw new Error("the parser gave no tree");
    return tree.rootNode;
  }
}

/** Named children with the name of their field, if they have one. */
export function childrenOf(node: Node): { readonly field: string | null; readonly node: Node }[] {
  const found: { field: string | null; node: Node }[] = [];
  for (let i = 0; i < node.childCount; i += 1) {
    const child = node.child(i);
    if (child?.isNamed) found.push({ field: node.fieldNameForChild(i), node: child });
  }
  return found;
}

/** Named children in a field. */
export function inField(node: Node, field: string): Node[] {
  return childrenOf(node).flatMap((child) => (child.field === field ? [child.node] : []));
}

/** Line of a node, from 1. */
export function lineOf(node: Node): number {
  return node.startPosition.row + 1;
}

/** Children that are punctuation and operators, as text. */
export function operatorsOf(node: Node): string[] {
  const found: string[] = [];
  for (let i = 0; i < node.childCount; i += 1) {
    const child = node.child(i);
    if (child && !child.isNamed) found.push(child.text);
  }
  return found;
}
