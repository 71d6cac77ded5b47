// Not compiled here: see README.md.
import CoreML
import UIKit

/// Cuts the subject out of photos with a net that takes a picture, RGB 0..255.
final class Cutter {
    private let model: MLModel
    private let width: Int
    private let height: Int

    init() throws {
        guard let file = Bundle.main.url(forResource: "Net", withExtension: "mlmodelc") else {
            throw CocoaError(.fileNoSuchFile)
        }
        model = try MLModel(contentsOf: file)
        guard let image = model.modelDescription.inputDescriptionsByName["image"]?.imageConstraint else {
            throw CocoaError(.featureUnsupported)
        }
        (width, height) = (image.pixelsWide, image.pixelsHigh)
    }

    /// The photo with its subject opaque and all else transparent.
    func cut(_ photo: UIImage) throws -> UIImage {
        let format = UIGraphicsImageRendererFormat()
        format.scale = 1
        let upright = UIGraphicsImageRenderer(size: photo.size, format: format).image { _ in
            photo.draw(in: CGRect(origin: .zero, size: photo.size))
        }
        guard let whole = upright.cgImage else { throw CocoaError(.featureUnsupported) }
        let value = try MLFeatureValue(
            cgImage: whole, pixelsWide: width, pixelsHigh: height, pixelFormatType: kCVPixelFormatType_32BGRA,
            options: [.cropAndScale: 2])  // VNImageCropAndScaleOption.scaleFill: the net takes the whole photo
        let made = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: ["image": value]))
        guard let mask = made.featureValue(for: "mask")?.multiArrayValue, let alpha = Self.picture(of: mask) else {
            throw CocoaError(.featureUnsupported)
        }
        return UIGraphicsImageRenderer(size: photo.size, format: format).image { context in
            let all = CGRect(origin: .zero, size: photo.size)
            // A mask's first row is drawn at the bottom.
            context.cgContext.translateBy(x: 0, y: all.height)
            context.cgContext.scaleBy(x: 1, y: -1)
            context.cgContext.clip(to: all, mask: alpha)
            context.cgContext.draw(whole, in: all)
        }
    }

    /// The mask (1, 1, height, width) as a gray picture, stretched to 0..1 as u2slim cut does.
    private static func picture(of mask: MLMultiArray) -> CGImage? {
        let (height, width) = (mask.shape[2].intValue, mask.shape[3].intValue)
        let values = (0..<height).flatMap { y in
            (0..<width).map { x in mask[[0, 0, NSNumber(value: y), NSNumber(value: x)]].floatValue }
        }
        guard let low = values.min(), let high = values.max() else { return nil }
        let scale: Float = high < 0.3 ? 0 : 255 / (high - low + 1e-6)  // sure of nothing: there is no subject
        let bytes = values.map { UInt8(($0 - low) * scale) }
        guard let data = CGDataProvider(data: Data(bytes) as CFData) else { return nil }
        return CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 8, bytesPerRow: width,
            space: CGColorSpaceCreateDeviceGray(), bitmapInfo: [], provider: data, decode: nil,
            shouldInterpolate: true, intent: .defaultIntent)
    }
}
